// The connection to the server: a stream of events, one a second, each with everything about the segments.

import { addressOf } from "./address.js";
import { pause } from "./time.js";

const SILENCE_MS = 5000;
const RETRY_MS = 1000;

// `onSegments` gets the list of each event. `onLink` gets {state, words} whenever the state changes: connecting at
// first, then connected, lost, or full.
export class Server {
  constructor({ onSegments, onLink }) {
    this.onSegments = onSegments;
    this.onLink = onLink;
    this.link = { state: "connecting", words: "" };
    this.left = false;
    // Browsers keep a page that was left for a while, in case the user goes back, and its connections with it.
    addEventListener("pagehide", () => {
      this.left = true;
      this.attempt?.abort();
    });
    addEventListener("pageshow", () => {
      this.left = false;
    });
  }

  async run() {
    for (;;) {
      if (!this.left) this.become(await this.listen());
      await pause(RETRY_MS);
    }
  }

  become(link) {
    if (link.state === this.link.state && link.words === this.link.words) return;
    this.link = link;
    this.onLink(link);
  }

  // Follow one stream of events to its end, and return what the connection is then.
  async listen() {
    const attempt = this.attempt = new AbortController();
    let silence;
    const expectEvent = () => {
      clearTimeout(silence);
      silence = setTimeout(() => attempt.abort(), SILENCE_MS);
    };
    expectEvent();
    try {
      const answer = await fetch(addressOf("api/events"), { cache: "no-store", signal: attempt.signal });
      if (!answer.ok) return await refused(answer);
      await readEvents(answer.body, (segments) => {
        expectEvent();
        this.become({ state: "connected", words: "" });
        this.onSegments(segments);
      });
    } catch {
      // The network failed, or the server was silent.
    } finally {
      clearTimeout(silence);
    }
    return { state: "lost", words: "There is no connection to the server." };
  }
}

async function refused(answer) {
  if (answer.status === 401) location.assign("login");
  const { detail } = await answer.json().catch(() => ({}));
  // A proxy may answer 503, too, but has no `detail`.
  if (detail && (answer.status === 503 || answer.status === 429)) {
    return { state: "full", words: `The server is full: ${detail}.` };
  }
  return { state: "lost", words: `There is no connection to the server: the answer was ${answer.status}.` };
}

async function readEvents(body, onEvent) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (text + value).split("\n\n");
    text = events.pop();
    for (const event of events) {
      const data = event.split("\n").find((line) => line.startsWith("data: "));
      if (data) onEvent(JSON.parse(data.slice("data: ".length)));
    }
  }
}
