// Two ways to get pictures: JPEGs over a WebSocket, and snapshots, requested one by one, if no WebSocket gets through.
//
// Both run until `signal` aborts them or they end, call `show(jpeg, {sequence, latency})` for each new picture and wait
// for it, and return {refusal}: why the server sends none, or null. `latency` is in ms, or null. `isLate()` says
// whether the server has pictures that have not arrived.

import { addressOf } from "./address.js";
import { isSeen, pause } from "./time.js";

const HEADER_BYTES = 32;
const FAILURES_BEFORE_SNAPSHOTS = 2;
const PROBE_MS = 10_000;
// Browsers open six connections per server, for all their pages; the events need one.
const SNAPSHOTS_AT_ONCE = 3;
const SNAPSHOT_MS = 66;
const NO_SNAPSHOT_MS = 1000;

// Close codes of a server that has accepted the WebSocket: not shown here, not possible as an image, too many clients.
const REFUSALS = [1008, 1003, 1013];

function socketUrl(name, query) {
  const url = addressOf(`ws/${encodeURIComponent(name)}?${query}`);
  url.protocol = url.protocol.replace("http", "ws");
  return url;
}

// Whether WebSockets get through the proxies: one fact for the whole page. While they do not, one is tried now and then.
export const webSockets = {
  failures: 0,
  candidate: null,
  probing: false,
  get pass() {
    return this.failures < FAILURES_BEFORE_SNAPSHOTS;
  },
  succeeded() {
    this.failures = 0;
  },
  failed(url) {
    this.candidate = url;
    this.failures += 1;
    if (!this.pass && !this.probing) this.probe();
  },
  async probe() {
    this.probing = true;
    while (!this.pass) {
      await pause(PROBE_MS);
      if (isSeen() && await bringsSomething(this.candidate)) this.succeeded();
    }
    this.probing = false;
  },
};

function bringsSomething(url) {
  return new Promise((resolve) => {
    const socket = new WebSocket(url);
    const end = (result) => {
      clearTimeout(timer);
      socket.close();
      resolve(result);
    };
    const timer = setTimeout(end, PROBE_MS, false);
    socket.onmessage = () => end(true);
    socket.onclose = () => end(false);
  });
}

export async function overWebSocket(name, query, { show, isLate, signal }) {
  const url = socketUrl(name, query);
  let opened = false;
  let shown = 0;
  const refusal = await new Promise((resolve) => {
    const socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => { opened = true; };
    // The closing handshake of a lost connection takes a minute.
    signal.addEventListener("abort", () => { socket.close(); resolve(null); });
    socket.onclose = ({ code, reason }) => resolve(REFUSALS.includes(code) ? reason : null);
    // One after the other: the decoder may finish a later picture first, and an older one must not replace it. Each is
    // acknowledged once it is drawn, so they do not pile up.
    let drawn = Promise.resolve();
    socket.onmessage = ({ data }) => {
      drawn = drawn.then(async () => {
        const header = new DataView(data, 0, HEADER_BYTES);
        const roundTrip = header.getFloat64(24);
        const latency = roundTrip > 0 ? header.getFloat64(16) + roundTrip : null;
        await show(new Uint8Array(data, HEADER_BYTES), { sequence: header.getFloat64(0), latency });
        shown += 1;
        webSockets.succeeded();
        if (socket.readyState === WebSocket.OPEN) socket.send("1");
      });
    };
  });
  const hasFailed = !opened || (!shown && refusal === null && isLate());
  if (hasFailed && signal.reason !== "stop") webSockets.failed(url);
  return { refusal };
}

export async function overSnapshots(name, query, { show, signal }) {
  let tag = "";
  while (!signal.aborted && !webSockets.pass) {
    const free = await snapshotSlot();
    const asked = performance.now();
    let rest = 0;
    try {
      if (signal.aborted) break;
      const answer = await fetch(addressOf(`snapshot/${encodeURIComponent(name)}.jpg?${query}`), {
        cache: "no-store", headers: tag ? { "If-None-Match": tag } : {}, signal,
      });
      if (answer.status === 200) {
        webSockets.candidate = socketUrl(name, query); // there are pictures that a WebSocket could bring
        tag = answer.headers.get("ETag");
        const latency = Number(answer.headers.get("X-Frame-Age")) * 1000 + performance.now() - asked;
        await show(await answer.arrayBuffer(), { sequence: Number(answer.headers.get("X-Frame-Sequence")), latency });
      } else if (answer.status === 503) {
        rest = NO_SNAPSHOT_MS; // no frame yet, or too many ask at once
      } else if (answer.status !== 304) {
        const { detail } = await answer.json().catch(() => ({}));
        return { refusal: detail ?? `the answer was ${answer.status}` };
      }
      await pause(asked + SNAPSHOT_MS - performance.now(), signal);
    } catch {
      return { refusal: null }; // the network failed, or `signal` said so
    } finally {
      free();
    }
    await pause(rest, signal);
  }
  return { refusal: null };
}

let freeSlots = SNAPSHOTS_AT_ONCE;
const waiting = [];

// Wait for one of a few places, first come first served, and return the function that frees it.
async function snapshotSlot() {
  if (freeSlots > 0) freeSlots -= 1;
  else await new Promise((resolve) => waiting.push(resolve));
  return () => {
    if (waiting.length) waiting.shift()();
    else freeSlots += 1;
  };
}
