// The last seconds of one source over the whole window: in slow motion, frame by frame, and as a file.

import { addressOf } from "./address.js";
import { setText } from "./state.js";

const dialog = document.getElementById("replay");
const find = (selector) => dialog.querySelector(selector);
const video = find("video");

export class Replay {
  // `onChange` is called when it opens and closes.
  constructor(onChange) {
    this.card = this.clip = null;
    this.asked = 0; // clips that were requested: only the last one counts
    this.onChange = onChange;
    find(".last").addEventListener("change", () => this.fetch());
    find(".speed").addEventListener("change", () => this.setSpeed());
    find(".play").addEventListener("click", () => this.toggle());
    find(".back").addEventListener("click", () => this.step(-1));
    find(".forward").addEventListener("click", () => this.step(1));
    find(".close").addEventListener("click", () => dialog.close());
    find(".place").addEventListener("input", ({ target }) => {
      video.pause();
      video.currentTime = Number(target.value);
    });
    for (const event of ["play", "pause", "timeupdate", "seeked"]) video.addEventListener(event, () => this.show());
    video.addEventListener("error", () => {
      if (this.clip) this.say("No picture", "This browser cannot play the clip. Save stores it as a file.");
    });
    dialog.addEventListener("keydown", (event) => {
      const { key, target } = event;
      if (target.matches("select, input")) return;
      if (key === "," || key === "ArrowLeft") this.step(-1);
      else if (key === "." || key === "ArrowRight") this.step(1);
      else if (key === " " && !target.matches("button, a")) this.toggle();
      else return;
      event.preventDefault();
    });
    dialog.addEventListener("close", () => {
      this.leave();
      onChange();
    });
  }

  get open() {
    return this.card !== null;
  }

  enter(card) {
    this.card = card;
    setText(find("h2"), card.name);
    dialog.showModal();
    this.onChange();
    return this.fetch();
  }

  leave() {
    this.forget();
    this.card = null;
    this.asked += 1;
  }

  forget() {
    if (this.clip) URL.revokeObjectURL(this.clip.url);
    this.clip = null;
    video.removeAttribute("src");
    video.load();
    find("[data-link=clip]").hidden = true;
  }

  // A clip is fetched whole, so every frame can be shown immediately.
  async fetch() {
    const asked = (this.asked += 1);
    this.forget();
    this.say("Please wait", "The clip is being made …");
    this.show();
    let trouble;
    try {
      const address = addressOf(`replay/${encodeURIComponent(this.card.name)}.mp4`);
      address.searchParams.set("last", find(".last").value);
      const answer = await fetch(address);
      if (answer.ok) {
        const frames = Number(answer.headers.get("x-clip-frames"));
        const seconds = Number(answer.headers.get("x-clip-seconds"));
        const blob = await answer.blob();
        if (asked === this.asked) this.begin({ url: URL.createObjectURL(blob), frames, seconds });
        return;
      }
      trouble = (await answer.json()).detail;
    } catch {
      trouble = "The server does not answer.";
    }
    if (asked === this.asked) this.say("No clip", trouble);
  }

  begin(clip) {
    this.clip = clip;
    this.say("");
    const link = find("[data-link=clip]");
    link.href = clip.url;
    link.download = `${this.card.fileName}.mp4`;
    link.hidden = false;
    find(".place").max = clip.seconds;
    video.src = clip.url;
    this.setSpeed();
    video.play().catch(() => {}); // the browser has no decoder, and an event reports that
  }

  setSpeed() {
    video.playbackRate = video.defaultPlaybackRate = Number(find(".speed").value);
  }

  toggle() {
    if (!this.clip) return;
    if (video.paused) video.play().catch(() => {});
    else video.pause();
  }

  // Frames are assumed to be equally far apart. This aims at the middle of one.
  step(by) {
    if (!this.clip || this.clip.frames < 2) return;
    video.pause();
    const period = this.clip.seconds / (this.clip.frames - 1);
    const place = Math.floor(video.currentTime / period + 0.001) + by;
    video.currentTime = Math.min(Math.max(0, place + 0.5), this.clip.frames - 0.5) * period;
  }

  say(title, words = "") {
    const veil = find(".veil");
    veil.hidden = !title;
    setText(veil.querySelector("strong"), title);
    setText(veil.querySelector(".words"), words);
  }

  show() {
    const { clip } = this;
    for (const control of dialog.querySelectorAll(".play, .back, .forward, .place")) control.disabled = !clip;
    setText(find(".play"), video.paused ? "Play" : "Pause");
    setText(find("[data-figure=time]"), clip ? `${(video.currentTime - clip.seconds).toFixed(2)} s` : "");
    if (clip && document.activeElement !== find(".place")) find(".place").value = video.currentTime;
  }
}
