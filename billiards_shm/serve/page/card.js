// One source: its picture, state, figures and plots.

import { Picture } from "./picture.js";
import { drawPlot } from "./plot.js";
import { rankOf, setText, showState, stateOf } from "./state.js";
import { duration } from "./time.js";

const HISTORY_S = 300;
const WALL_FPS = 10;

const template = document.getElementById("card");
const narrow = matchMedia("(max-width: 30rem)");
let cardsMade = 0;

function quantity(value, unit) {
  if (unit === "us") return `${(value / 1e3).toFixed(1)} ms`;
  if (unit !== "bytes") return String(value);
  return value < 1e9 ? `${(value / 1e6).toFixed(1)} MB` : `${(value / 1e9).toFixed(2)} GB`;
}

function median(values) {
  return values.length ? values.sort((a, b) => a - b)[Math.floor(values.length / 2)] : null;
}

export class Card {
  constructor(name, { onEnlarge, onReplay, onDismiss }) {
    this.name = name;
    this.visible = false;
    this.history = { fps: [], latency: [] };
    this.latencies = [];
    this.updatedAt = performance.now();
    this.root = template.content.firstElementChild.cloneNode(true);
    this.root.dataset.name = name;
    const title = this.find("h2");
    title.id = `source-${++cardsMade}`;
    title.textContent = title.title = name;
    this.root.setAttribute("aria-labelledby", title.id);
    this.find("details").open = !narrow.matches;
    const canvas = this.find("canvas");
    canvas.setAttribute("aria-label", `Live picture of ${name}`);
    this.picture = new Picture(canvas, name, (frame) => this.drawn(frame));
    for (const button of this.root.querySelectorAll(".enlarge")) {
      button.setAttribute("aria-label", `Full size: ${name}`);
      button.addEventListener("click", () => onEnlarge(this));
    }
    const replay = this.find(".replay");
    replay.setAttribute("aria-label", `Replay of ${name}`);
    replay.addEventListener("click", () => onReplay(this));
    const dismiss = this.find(".dismiss");
    dismiss.setAttribute("aria-label", `Dismiss ${name}`);
    dismiss.addEventListener("click", () => onDismiss(this));
    const path = encodeURIComponent(name);
    this.link("snapshot", `snapshot/${path}.jpg?quality=95`, `Snapshot of ${name}`).download = `${this.fileName}.jpg`;
    this.link("stream", `stream/${path}.mjpg`, `MJPEG stream of ${name}`);
    this.link("details", `api/segments/${path}`, `Details of ${name}, JSON`);
  }

  find(selector) {
    return this.root.querySelector(selector);
  }

  link(which, href, label) {
    const link = this.find(`[data-link="${which}"]`);
    link.href = href;
    link.setAttribute("aria-label", label);
    return link;
  }

  drawn({ latency }) {
    if (latency !== null) this.latencies.push(latency);
  }

  get ended() {
    return this.segment.ended;
  }

  get rank() {
    return rankOf(this.segment);
  }

  get fileName() {
    return this.name.replaceAll("/", "_");
  }

  get fpsText() {
    return `${this.segment.fps.toFixed(1)} fps`;
  }

  get latencyText() {
    return this.latency === null ? "" : `${Math.round(this.latency)} ms`;
  }

  get hasPicture() {
    return !this.ended && !["gone", "unreadable"].includes(this.segment.state);
  }

  // Take the server's data: once a second, except while the page was hidden or the server away.
  update(segment) {
    this.segment = segment;
    const seconds = Math.floor((performance.now() - this.updatedAt) / 1000);
    this.updatedAt = performance.now();
    for (let missed = 1; missed < Math.min(seconds, HISTORY_S); missed += 1) {
      this.remember("fps", null);
      this.remember("latency", null);
    }
    this.latency = median(this.latencies);
    this.latencies = [];
    this.remember("fps", segment.status === "live" ? segment.fps : null);
    this.remember("latency", this.latency);
  }

  // Show everything. `link` is the connection to the server.
  show(link) {
    const { segment } = this;
    this.state = stateOf(segment, link, this.picture.check(segment));
    showState(this.root, this.state);
    const reason = this.find(".reason");
    setText(reason, this.state.reason || this.state.words || this.origin());
    reason.title = reason.textContent;
    this.find(".replay").hidden = !segment.replay;
    this.find(".dismiss").hidden = !this.ended && segment.state !== "gone";
    setText(this.find(".brief"), this.brief());
    if (!this.visible) return;
    this.figure("fps", segment.fps.toFixed(1));
    this.figure("age", duration(segment.last_frame_age));
    this.figure("latency", this.latencyText || "–");
    this.figure("size", segment.width ? `${segment.width}×${segment.height}` : "–");
    this.figure("readers", String(segment.readers));
    this.figure("clients", String(segment.clients));
    for (const cell of this.root.querySelectorAll("[data-statistic]")) {
      setText(cell, quantity(segment[cell.dataset.statistic], cell.dataset.unit));
    }
    for (const group of this.root.querySelectorAll("[data-of-copies]")) group.hidden = !segment.link_bytes;
    if (this.find(".plots").checkVisibility()) {
      this.plot("fps", "fps");
      this.plot("latency", "ms");
    }
  }

  // Where the frames come from, and in which format.
  origin() {
    const { backend, pixel_format: format, source_state: source } = this.segment;
    return [backend, format, source === "unknown" ? "" : source].filter(Boolean).join(" · ");
  }

  // The figures that matter most, in one line.
  brief() {
    if (this.state.tone === "off" || !this.segment.width) return "";
    return [this.fpsText, this.latencyText].filter(Boolean).join(" · ");
  }

  figure(which, text) {
    setText(this.find(`[data-figure="${which}"]`), text);
  }

  remember(which, value) {
    const values = this.history[which];
    values.push(value);
    if (values.length > HISTORY_S) values.shift();
  }

  plot(which, unit) {
    const values = this.history[which];
    const svg = this.find(`[data-plot="${which}"]`);
    const length = values.length <= HISTORY_S / 5 ? HISTORY_S / 5 : HISTORY_S;
    const top = drawPlot(svg, values, length, unit);
    const caption = svg.previousElementSibling;
    setText(caption.querySelector(".length"), length === HISTORY_S ? "5 min" : "1 min");
    setText(caption.querySelector(".scale"), top === null ? "" : `${top} ${unit}`);
  }

  // Start or stop the picture.
  stream(wanted, wall) {
    if (!wanted) this.picture.stop();
    else this.picture.start({ pixels: this.find(".picture").clientWidth * devicePixelRatio, fps: wall ? WALL_FPS : null });
  }

  remove() {
    this.picture.stop();
    this.root.remove();
  }
}
