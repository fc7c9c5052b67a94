// The preview page: a card for each source, with problems first and ended sources folded away.

import { Card } from "./card.js";
import { FullSize } from "./full_size.js";
import { Replay } from "./replay.js";
import { Server } from "./server.js";
import { setText } from "./state.js";
import { isSeen } from "./time.js";

const NAMES_IN_SUMMARY = 3;

const sources = document.getElementById("sources");
const ended = document.getElementById("ended");
const endedSources = document.getElementById("ended-sources");
const alert = document.getElementById("alert");
const byName = new Intl.Collator(undefined, { numeric: true });
const cards = new Map();
const dismissed = new Set();

// Only visible pictures are streamed.
const visibility = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const card = cards.get(target.dataset.name);
    if (!card) continue;
    card.visible = isIntersecting;
    if (isIntersecting) card.show(server.link);
  }
  stream();
});
const replay = new Replay(stream);
const fullSize = new FullSize(() => shown().filter((card) => !card.ended || card === fullSize.card), stream);
const server = new Server({
  onSegments: (segments) => {
    update(segments);
    show();
  },
  onLink: show,
});

function shown() {
  return [...cards.values()]
    .filter((card) => !dismissed.has(card.name))
    .sort((a, b) => a.rank - b.rank || byName.compare(a.name, b.name));
}

function update(segments) {
  const names = new Set(segments.map(({ name }) => name));
  for (const [name, card] of cards) {
    if (names.has(name)) continue;
    visibility.unobserve(card.root);
    card.remove();
    cards.delete(name);
  }
  for (const segment of segments) {
    const { name } = segment;
    if (!cards.has(name)) {
      const card = new Card(name, {
        onEnlarge: (one) => fullSize.enter(one, server.link),
        onReplay: (one) => replay.enter(one),
        onDismiss: dismiss,
      });
      cards.set(name, card);
      visibility.observe(card.root);
    }
    cards.get(name).update(segment);
    if (!segment.ended && segment.state !== "gone") dismissed.delete(name);
  }
}

function dismiss(...them) {
  for (const card of them) dismissed.add(card.name);
  show();
}
document.getElementById("dismiss-all").addEventListener("click", () => dismiss(...shown().filter((card) => card.ended)));

function show() {
  stream();
  for (const card of cards.values()) card.show(server.link);
  arrange();
  fullSize.show(server.link);
  summarize();
}

// Put each card in its place, and keep the focus, which a moved card would lose.
function arrange() {
  const focused = document.activeElement;
  const all = shown();
  place(sources, all.filter((card) => !card.ended));
  place(endedSources, all.filter((card) => card.ended));
  if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
}

function place(parent, wanted) {
  wanted.forEach(({ root }, index) => {
    if (parent.children[index] !== root) parent.insertBefore(root, parent.children[index] ?? null);
  });
  while (parent.children.length > wanted.length) parent.lastElementChild.remove();
}

function summarize() {
  const { state, words } = server.link;
  alert.hidden = state === "connected" || state === "connecting";
  setText(alert, alert.hidden ? "" : `${words} ${cards.size ? "What you see is old. " : ""}Trying again …`);
  if (state === "connecting") return;
  const all = shown();
  const running = all.filter((card) => !card.ended);
  const problems = running.filter((card) => card.state.tone !== "good");
  document.getElementById("empty").hidden = all.length > 0 || state !== "connected";
  ended.hidden = all.length === running.length;
  setText(document.getElementById("ended-count"), `${all.length - running.length} ended`);
  document.getElementById("dismiss-all").hidden = all.length - running.length < 2;
  const marks = { connected: problems.length ? `(${problems.length}!) ` : "", lost: "(no connection) ", full: "(server full) " };
  document.title = `${marks[state]}billiards_shm`;
  const summary = document.getElementById("summary");
  setText(summary, state === "connected" ? sentence(running, problems) : "");
  summary.title = summary.textContent;
}

function sentence(running, problems) {
  if (!running.length) return "No source is running";
  if (!problems.length) return running.length === 1 ? "1 source, live" : `${running.length} sources, all live`;
  const named = problems.slice(0, NAMES_IN_SUMMARY).map(({ name, state }) => {
    return state.name === "no picture" ? `${name} shows no picture` : `${name} is ${state.name}`;
  });
  if (problems.length > named.length) named.push(`and ${problems.length - named.length} more`);
  if (running.length === 1) return named[0];
  const have = problems.length === 1 ? "has a problem" : "have problems";
  return `${problems.length} of ${running.length} sources ${have}: ${named.join(", ")}`;
}

function stream() {
  const seen = isSeen() && server.link.state === "connected" && !fullSize.open && !replay.open;
  const wall = document.documentElement.dataset.view === "wall";
  for (const card of cards.values()) card.stream(seen && card.visible && card.hasPicture, wall);
}
document.addEventListener("visibilitychange", () => {
  stream();
  fullSize.show(server.link);
});
document.addEventListener("change", ({ target }) => {
  if (target.name !== "view") return;
  for (const card of cards.values()) card.picture.stop(); // the pictures have another size now
  stream();
});

server.run();
