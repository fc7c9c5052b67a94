// One source over the whole window.

import { Picture } from "./picture.js";
import { setText, showState, stateOf } from "./state.js";
import { isSeen } from "./time.js";

const dialog = document.getElementById("large");
const find = (selector) => dialog.querySelector(selector);

export class FullSize {
  // `neighbours` returns the cards in the order of the page; `onChange` is called when it opens and closes.
  constructor(neighbours, onChange) {
    this.neighbours = neighbours;
    this.card = null;
    find(".previous").addEventListener("click", () => this.step(-1));
    find(".next").addEventListener("click", () => this.step(1));
    find(".close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("keydown", ({ key }) => {
      if (key === "ArrowLeft") this.step(-1);
      if (key === "ArrowRight") this.step(1);
    });
    dialog.addEventListener("close", () => {
      this.leave();
      onChange();
    });
    this.onChange = onChange;
  }

  get open() {
    return this.card !== null;
  }

  enter(card, link) {
    this.leave();
    this.card = card;
    setText(find("h2"), card.name);
    const snapshot = find("[data-link=snapshot]");
    snapshot.href = `snapshot/${encodeURIComponent(card.name)}.png`;
    snapshot.download = `${card.fileName}.png`;
    // A new canvas, so no picture of the previous source is left on it.
    const canvas = find("canvas").cloneNode();
    canvas.width = 16;
    canvas.height = 9;
    delete canvas.dataset.sequence;
    canvas.setAttribute("aria-label", `Live picture of ${card.name}, full size`);
    find("canvas").replaceWith(canvas);
    this.picture = new Picture(canvas, card.name, (frame) => card.drawn(frame));
    if (!dialog.open) dialog.showModal();
    this.show(link);
    this.onChange();
  }

  leave() {
    this.picture?.stop();
    this.picture = this.card = null;
  }

  step(by) {
    const cards = this.neighbours();
    const place = cards.indexOf(this.card);
    this.enter(cards[(place + by + cards.length) % cards.length], this.link);
  }

  // Once a second, and when the page is hidden or the connection to the server changes.
  show(link) {
    if (!this.open) return;
    this.link = link;
    const { card, picture } = this;
    const cards = this.neighbours();
    if (!cards.includes(card)) {
      dialog.close();
      return;
    }
    if (isSeen() && link.state === "connected" && card.hasPicture) picture.start({ pixels: innerWidth * devicePixelRatio });
    else picture.stop();
    showState(dialog, stateOf(card.segment, link, picture.check(card.segment)));
    setText(find("[data-figure=fps]"), card.fpsText);
    setText(find("[data-figure=latency]"), card.latencyText);
    setText(find(".place"), `${cards.indexOf(card) + 1} of ${cards.length}`);
    for (const button of dialog.querySelectorAll(".previous, .next")) button.disabled = cards.length < 2;
  }
}
