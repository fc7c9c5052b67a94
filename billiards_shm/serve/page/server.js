// The connection to the server: one event a second, each with everything about the segments.

import { addressOf } from "./address.js";
import { isSeen, pause } from "./time.js";

const SILENCE_MS = 5000;
const RETRY_MS = 1000;
const HIDDEN_MS = 5000;
const LOST = { state: "lost", words: "There is no connection to the server." };

// `onSegments` gets the list of each event. `onLink` gets {state, words} whenever the state changes: connecting at
// first, then connected, lost, or full.
//
// A hidden page keeps no connection, because browsers open six per server, for all tabs together. It asks now
// and then, for the page's title.
export class Server {
  constructor({ onSegments, onLink }) {
    this.onSegments = onSegments;
    this.onLink = onLink;
    this.link = { state: "connecting", words: "" };
    this.attempt = new AbortController();
    this.left = false;
    document.addEventListener("visibilitychange", () => this.attempt.abort("seen or hidden"));
    // Browsers keep a page for a while after the user leaves it, in case they go back, along with its connections.
    addEventListener("pagehide", () => {
      this.left = true;
      this.attempt.abort("left");
    });
    addEventListener("pageshow", () => {
      this.left = false;
    });
  }

  async run() {
    for (;;) {
      const wasSeen = isSeen();
      if (!this.left) await this.connect(wasSeen);
      if (wasSeen === isSeen()) await pause(wasSeen ? RETRY_MS : HIDDEN_MS);
    }
  }

  become(link) {
    if (link.state === this.link.state && link.words === this.link.words) return;
    this.link = link;
    this.onLink(link);
  }

  // Take the server's data: for as long as the event stream lasts, or once.
  async connect(toStream) {
    const attempt = this.attempt = new AbortController();
    let silence;
    const expectAnswer = () => {
      clearTimeout(silence);
      silence = setTimeout(() => attempt.abort("silent"), SILENCE_MS);
    };
    const take = (segments) => {
      expectAnswer();
      this.become({ state: "connected", words: "" });
      this.onSegments(segments);
    };
    expectAnswer();
    try {
      const address = addressOf(toStream ? "api/events" : "api/segments");
      const answer = await fetch(address, { cache: "no-store", signal: attempt.signal });
      if (!answer.ok) this.become(await refused(answer));
      else if (!toStream) take(await answer.json());
      else {
        await readEvents(answer.body, take);
        this.become(LOST);
      }
    } catch {
      if (!["left", "seen or hidden"].includes(attempt.signal.reason)) this.become(LOST);
    } finally {
      clearTimeout(silence);
    }
  }
}

async function refused(answer) {
  if (answer.status === 401) location.assign("login");
  const { detail } = await answer.json().catch(() => ({}));
  // A proxy may also answer 503, but without `detail`.
  if (detail && answer.status === 503) return { state: "full", words: `The server is full: ${detail}.` };
  return { ...LOST, words: `There is no connection to the server: ${detail ?? `the answer was ${answer.status}`}.` };
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
