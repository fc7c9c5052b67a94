// The live picture of one source on a canvas. It is kept running, and watched: see `check`.

import { pause } from "./time.js";
import { overSnapshots, overWebSocket, webSockets } from "./transports.js";

const WIDTHS = [320, 640, 960, 1280, 1920]; // as in the server's PAGE_WIDTHS
const LATE_MS = 5000;
const STUCK_MS = 8000;
const RETRY_MS = 1000;
const REFUSED_RETRY_MS = 5000;
const NARROW_MS = 10_000;

export class Picture {
  // `onFrame` gets {sequence, latency} of each drawn picture.
  constructor(canvas, name, onFrame) {
    this.canvas = canvas;
    this.name = name;
    this.onFrame = onFrame;
    this.running = null;
  }

  // `pixels`: its width on the screen. `fps`: null for all.
  start({ pixels, fps = null }) {
    if (this.running) return;
    this.fitting = this.width = WIDTHS.find((width) => width >= pixels * 0.9) ?? null;
    this.narrowFor = NARROW_MS;
    this.fps = fps;
    this.refusal = null;
    this.newAt = performance.now();
    this.isLate = false;
    this.canvas.dataset.picture = "opening";
    this.running = new AbortController();
    this.keepComing(this.running.signal);
  }

  stop() {
    this.running?.abort("stop");
    this.running = null;
    this.canvas.dataset.picture = "stopped";
  }

  async keepComing(signal) {
    while (!signal.aborted) {
      const attempt = new AbortController();
      const stop = () => attempt.abort("stop");
      signal.addEventListener("abort", stop);
      this.attempt = attempt;
      this.attemptAt = performance.now();
      const query = new URLSearchParams({ quality: 80 });
      if (this.width) query.set("width", this.width);
      if (this.fps && webSockets.pass) query.set("fps", this.fps);
      const transport = webSockets.pass ? overWebSocket : overSnapshots;
      const { refusal } = await transport(this.name, query, {
        show: (jpeg, frame) => this.show(jpeg, frame, attempt.signal),
        isLate: () => this.isLate,
        signal: attempt.signal,
      });
      signal.removeEventListener("abort", stop);
      if (signal.aborted) return;
      this.refusal = refusal;
      if (!attempt.signal.aborted) await pause(refusal === null ? RETRY_MS : REFUSED_RETRY_MS, signal);
    }
  }

  async show(jpeg, frame, signal) {
    let image;
    try {
      image = await createImageBitmap(new Blob([jpeg], { type: "image/jpeg" }));
    } catch {
      return; // the browser cannot show this frame; the next one may be better
    }
    if (!signal.aborted) {
      if (this.canvas.width !== image.width || this.canvas.height !== image.height) {
        this.canvas.width = image.width;
        this.canvas.height = image.height;
      }
      this.canvas.getContext("2d", { alpha: false }).drawImage(image, 0, 0);
      this.canvas.dataset.sequence = frame.sequence;
      this.canvas.dataset.picture = "coming";
      this.sequence = frame.sequence;
      this.drawnAt = performance.now();
      this.newAt = Math.max(this.newAt, this.drawnAt - (frame.latency ?? 0));
      this.refusal = null;
      this.isLate = false;
      this.onFrame(frame);
    }
    image.close();
  }

  // Compare the drawn picture with the server's state of the segment, and return what is wrong with it, or null. Called
  // once a second. A picture that does not arrive is requested again, and narrower, in case the connection is slow;
  // after a while, which gets longer each time, it is requested in its fitting width again.
  check(segment) {
    if (!this.running) return null;
    if (this.refusal !== null) return `The server sends no picture: ${this.refusal}`;
    const now = performance.now();
    if (segment.state !== "live" || this.sequence === segment.sequence) this.newAt = now;
    const age = now - this.newAt;
    this.isLate = age >= LATE_MS;
    if (!this.isLate) {
      if (this.width !== this.fitting && now - this.attemptAt > this.narrowFor) this.ask(this.fitting);
      return null;
    }
    const narrower = WIDTHS.findLast((width) => this.width === null || width < this.width);
    const isStuck = now - Math.max(this.attemptAt, this.drawnAt ?? 0) > STUCK_MS;
    if (isStuck || (narrower && now - this.attemptAt > STUCK_MS)) {
      if (narrower) this.narrowFor *= 2;
      this.ask(narrower ?? this.width);
    }
    return `No new picture has arrived for ${Math.round(age / 1000)} s. Trying again …`;
  }

  // End the current attempt, and start another.
  ask(width) {
    this.width = width;
    this.attemptAt = performance.now();
    this.attempt.abort("another");
  }
}
