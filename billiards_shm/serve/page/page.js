// The preview page: one card per source, kept up to date by server-sent events.

import { drawPlot } from "./plot.js";
import { Stream } from "./stream.js";

const HISTORY_S = 300;
const WIDTHS = [320, 640, 960, 1280, 1920];
const SILENCE_MS = 4000;

const sources = document.getElementById("sources");
const summary = document.getElementById("summary");
const error = document.getElementById("error");
const empty = document.getElementById("empty");
const template = document.getElementById("card");
const cards = new Map();

function setText(element, text) {
  // Screen readers announce a text again when it is set, even to the same value.
  if (element.textContent !== text) element.textContent = text;
}

function duration(value) {
  if (value === null) return "–";
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  return value < 120 ? `${value.toFixed(1)} s` : `${Math.round(value / 60)} min`;
}

function quantity(value, unit) {
  if (unit !== "bytes") return String(value);
  return value < 1e9 ? `${(value / 1e6).toFixed(1)} MB` : `${(value / 1e9).toFixed(2)} GB`;
}

function showOverlay(element, segment) {
  element.hidden = segment.healthy;
  if (segment.healthy || element.dataset.state === segment.state) return;
  element.dataset.state = segment.state;
  const title = document.createElement("strong");
  title.textContent = segment.state;
  const words = {
    waiting: "No frame yet",
    stalled: "No new frame: this image is old",
    dead: "The writer died: this is the last image",
    closed: "The writer closed the segment",
    gone: "The segment does not exist now. The image comes back when it does",
    unreadable: "The segment cannot be read",
  };
  element.replaceChildren(title, words[segment.state] ?? "");
}

class Card {
  constructor(name) {
    this.name = name;
    this.history = { fps: [], latency: [] };
    this.latencies = [];
    this.root = template.content.firstElementChild.cloneNode(true);
    const id = `source-${cards.size}-${Math.random().toString(36).slice(2)}`;
    const title = this.root.querySelector("h2");
    title.id = id;
    title.textContent = name;
    this.root.setAttribute("aria-labelledby", id);
    this.root.dataset.name = name;
    this.canvas = this.root.querySelector("canvas");
    this.canvas.setAttribute("aria-label", `Live image of ${name}`);
    for (const button of this.root.querySelectorAll(".enlarge")) {
      button.setAttribute("aria-label", `Full size: ${name}`);
      button.addEventListener("click", () => enlarge(this));
    }
    const path = encodeURIComponent(name);
    this.link("snapshot", `snapshot/${path}.jpg?quality=95`, `Snapshot of ${name}`).download = `${name.replaceAll("/", "_")}.jpg`;
    this.link("stream", `stream/${path}.mjpg`, `MJPEG stream of ${name}`);
    this.link("details", `api/segments/${path}`, `Details of ${name}, JSON`);
    visibility.observe(this.root);
  }

  link(which, href, label) {
    const link = this.root.querySelector(`[data-link="${which}"]`);
    link.href = href;
    link.setAttribute("aria-label", label);
    return link;
  }

  update(segment) {
    this.segment = segment;
    const badge = this.root.querySelector(".badge");
    badge.dataset.state = segment.state;
    setText(badge, segment.state);
    setText(this.root.querySelector(".reason"), segment.healthy ? this.origin(segment) : segment.reason);
    showOverlay(this.root.querySelector(".overlay"), segment);
    const latency = this.latencies.length
      ? this.latencies.sort((a, b) => a - b)[Math.floor(this.latencies.length / 2)] : null;
    this.latencies = [];
    this.figure("fps", segment.fps.toFixed(1));
    this.figure("age", duration(segment.last_frame_age));
    this.figure("latency", latency === null ? "–" : `${Math.round(latency)} ms`);
    this.figure("size", segment.width ? `${segment.width}×${segment.height}` : "–");
    this.figure("readers", String(segment.readers));
    this.figure("clients", String(segment.clients));
    for (const cell of this.root.querySelectorAll("[data-statistic]")) {
      setText(cell, quantity(segment[cell.dataset.statistic], cell.dataset.unit));
    }
    this.plot("fps", segment.status === "live" ? segment.fps : null, "fps");
    this.plot("latency", latency, "ms");
  }

  origin(segment) {
    const parts = [segment.backend, segment.pixel_format, segment.source_state === "unknown" ? "" : segment.source_state];
    return parts.filter(Boolean).join(" · ");
  }

  figure(which, text) {
    setText(this.root.querySelector(`[data-figure="${which}"]`), text);
  }

  plot(which, value, unit) {
    const values = this.history[which];
    values.push(value);
    if (values.length > HISTORY_S) values.shift();
    const svg = this.root.querySelector(`[data-plot="${which}"]`);
    const length = values.length <= HISTORY_S / 5 ? HISTORY_S / 5 : HISTORY_S;
    const top = drawPlot(svg, values, length, unit);
    const caption = svg.previousElementSibling;
    setText(caption.querySelector(".length"), length === HISTORY_S ? "5 minutes" : "1 minute");
    setText(caption.querySelector(".scale"), String(top));
  }

  show(visible) {
    this.visible = visible;
    const wanted = visible && document.visibilityState === "visible" && !large.open;
    if (wanted && !this.stream) {
      const pixels = this.root.clientWidth * window.devicePixelRatio;
      const width = WIDTHS.find((each) => each >= pixels * 0.9) ?? null;
      this.stream = new Stream(this.canvas, this.name, {
        width,
        onFrame: ({ sequence, latency }) => {
          this.canvas.dataset.sequence = sequence;
          if (latency !== null) this.latencies.push(latency);
        },
        onError: (text) => setText(this.root.querySelector(".reason"), text),
      });
      this.stream.start();
    } else if (!wanted && this.stream) {
      this.stream.stop();
      this.stream = null;
    }
  }

  remove() {
    this.show(false);
    visibility.unobserve(this.root);
    this.root.remove();
  }
}

// Only visible cards are streamed.
const visibility = new IntersectionObserver((entries) => {
  for (const entry of entries) cards.get(entry.target.dataset.name)?.show(entry.isIntersecting);
});
function showVisible() {
  for (const card of cards.values()) card.show(card.visible ?? false);
}
document.addEventListener("visibilitychange", showVisible);

// Full size.

const large = document.getElementById("large");
let largeStream = null;
let largeCard = null;

function enlarge(card) {
  largeCard = card;
  document.getElementById("large-title").textContent = card.name;
  const snapshot = document.getElementById("large-snapshot");
  snapshot.href = `snapshot/${encodeURIComponent(card.name)}.png`;
  snapshot.download = `${card.name.replaceAll("/", "_")}.png`;
  const canvas = large.querySelector("canvas");
  canvas.setAttribute("aria-label", `Live image of ${card.name}, full size`);
  if (card.segment) showOverlay(large.querySelector(".overlay"), card.segment);
  large.showModal();
  showVisible();
  largeStream = new Stream(canvas, card.name, {
    onFrame: ({ sequence, latency }) => {
      canvas.dataset.sequence = sequence;
      if (latency !== null) card.latencies.push(latency);
    },
  });
  largeStream.start();
}
document.getElementById("large-close").addEventListener("click", () => large.close());
large.addEventListener("close", () => {
  largeStream?.stop();
  largeStream = largeCard = null;
  showVisible();
});

// Statistics.

let lastEvent = performance.now();

function update(list) {
  const names = new Set(list.map((segment) => segment.name));
  for (const [name, card] of cards) {
    if (!names.has(name)) {
      card.remove();
      cards.delete(name);
    }
  }
  for (const segment of list) {
    if (!cards.has(segment.name)) {
      const card = new Card(segment.name);
      cards.set(segment.name, card);
      const after = [...sources.children].find((other) => other.dataset.name > segment.name);
      sources.insertBefore(card.root, after ?? null);
    }
    cards.get(segment.name).update(segment);
  }
  if (largeCard?.segment) showOverlay(large.querySelector(".overlay"), largeCard.segment);
  const unhealthy = list.filter((segment) => !segment.healthy);
  empty.hidden = list.length > 0;
  const count = `${list.length} ${list.length === 1 ? "source" : "sources"}`;
  setText(summary, list.length === 0 ? "No source" : unhealthy.length === 0 ? `${count}, all live`
    : `${count}; ${unhealthy.map((segment) => `${segment.name} is ${segment.state}`).join(", ")}`);
  document.title = unhealthy.length ? `(${unhealthy.length}!) billiards_shm` : "billiards_shm";
}

function listen() {
  const events = new EventSource("api/events");
  events.addEventListener("segments", ({ data }) => {
    lastEvent = performance.now();
    error.hidden = true;
    update(JSON.parse(data));
  });
  events.onerror = async () => {
    if (events.readyState !== EventSource.CLOSED) return; // the browser reconnects
    events.close();
    const answer = await fetch("api/segments").catch(() => null);
    if (answer?.status === 401) location.assign("login");
    else setTimeout(listen, 2000);
  };
}

setInterval(() => {
  const silent = performance.now() - lastEvent;
  if (silent < SILENCE_MS) return;
  error.hidden = false;
  setText(error, "No connection to the server. What you see is old. Reconnecting …");
}, 1000);

listen();
