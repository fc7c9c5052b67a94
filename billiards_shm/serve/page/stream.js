// Live images on a canvas: JPEG over WebSocket. Each is acknowledged once it is drawn, so that none pile up.

const HEADER_BYTES = 32;
const RETRY_MS = 1000;
const TRIES_BEFORE_MJPEG = 3;

export class Stream {
  // `onFrame` gets {sequence, latency}, with `latency` in ms or null; `onError` gets a text.
  constructor(canvas, name, { width = null, onFrame = () => {}, onError = () => {} } = {}) {
    this.canvas = canvas;
    this.name = name;
    this.width = width;
    this.onFrame = onFrame;
    this.onError = onError;
    this.wanted = false;
    this.failures = 0;
  }

  start() {
    if (this.wanted) return;
    this.wanted = true;
    this.connect();
  }

  stop() {
    this.wanted = false;
    clearTimeout(this.timer);
    this.socket?.close();
    this.socket = null;
    if (this.image) {
      this.image.src = "";
      this.image.remove();
      this.image = null;
      this.canvas.hidden = false;
    }
  }

  query() {
    return this.width ? `?width=${this.width}` : "";
  }

  connect() {
    const url = new URL(`ws/${encodeURIComponent(this.name)}${this.query()}`, document.baseURI);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    // One after the other: the decoder may finish a later image first, and an older one must not replace it.
    let drawn = Promise.resolve();
    socket.onmessage = ({ data }) => {
      drawn = drawn.then(() => this.show(data)).then(() => {
        if (socket.readyState === WebSocket.OPEN) socket.send("1");
      });
    };
    socket.onopen = () => { this.opened = true; };
    socket.onclose = ({ reason }) => {
      if (!this.wanted || socket !== this.socket) return;
      if (reason) this.onError(reason);
      if (!this.opened && ++this.failures >= TRIES_BEFORE_MJPEG && navigator.onLine) this.fallBack();
      else this.timer = setTimeout(() => this.connect(), RETRY_MS);
    };
  }

  async show(data) {
    const header = new DataView(data, 0, HEADER_BYTES);
    let image;
    try {
      image = await createImageBitmap(new Blob([new Uint8Array(data, HEADER_BYTES)], { type: "image/jpeg" }));
    } catch {
      return; // a frame that the browser cannot show; the next one may be better
    }
    if (this.canvas.width !== image.width || this.canvas.height !== image.height) {
      this.canvas.width = image.width;
      this.canvas.height = image.height;
    }
    this.canvas.getContext("2d", { alpha: false }).drawImage(image, 0, 0);
    image.close();
    this.failures = 0;
    const roundTrip = header.getFloat64(24);
    this.onFrame({ sequence: header.getFloat64(0), latency: roundTrip > 0 ? header.getFloat64(16) + roundTrip : null });
  }

  // For proxies that do not let WebSockets pass.
  fallBack() {
    this.image = new Image();
    this.image.alt = this.canvas.getAttribute("aria-label") ?? "";
    this.image.src = `stream/${encodeURIComponent(this.name)}.mjpg${this.query()}`;
    this.canvas.hidden = true;
    this.canvas.after(this.image);
  }
}
