// What a card says about its source: the first of these that is true.
//
//   unknown     there is no connection to the server, or it is full: nothing on the page is certain
//   ended       the writer closed the segment; nothing is wrong
//   gone … stalled   what the server reports about the segment
//   no picture  the server reports new frames, but none of them reaches the screen
//   live        the server says so, and the picture on the screen is new

const STATES = {
  unknown: { tone: "off" },
  unreadable: { tone: "bad", words: "The segment cannot be read." },
  dead: { tone: "bad", words: "This is the last picture." },
  gone: { tone: "bad", words: "The picture appears once there is one." },
  stalled: { tone: "warn", words: "This picture is old." },
  waiting: { tone: "warn" },
  "no picture": { tone: "warn" },
  live: { tone: "good" },
  ended: { tone: "off", words: "The writer closed it." },
};
const MARKS = { good: "●", warn: "▲", bad: "■", off: "○" };
const TONES = ["bad", "warn", "good", "off"];

// `trouble`: what is wrong with the picture itself, or null. The result has `name`, `tone` and `title`, with the
// explanation in `words` and `reason`; both are empty when all is well.
export function stateOf(segment, link, trouble) {
  if (link.state === "full") return make("unknown", { title: "Server full", words: link.words });
  if (link.state !== "connected") return make("unknown", { title: "No connection", words: link.words });
  if (segment.ended) return make("ended");
  if (segment.state !== "live") return make(segment.state, { reason: sentence(segment.reason) });
  return trouble ? make("no picture", { words: trouble }) : make("live");
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function make(name, more = {}) {
  return { name, title: name, words: "", reason: "", ...STATES[name], ...more };
}

// Problems first. A missing picture does not count here: its card would move away, out of sight, and back.
export function rankOf(segment) {
  return TONES.indexOf(STATES[segment.ended ? "ended" : segment.state].tone);
}

export function setText(element, text) {
  // Screen readers announce a text again when it is set, even to the same value.
  if (element.textContent !== text) element.textContent = text;
}

// Show a state in a part of the page with a badge and a veil over its picture.
export function showState(root, state) {
  root.dataset.tone = state.tone;
  root.dataset.state = state.name;
  setText(root.querySelector(".badge .mark"), MARKS[state.tone]);
  setText(root.querySelector(".badge .word"), state.name);
  const veil = root.querySelector(".veil");
  veil.hidden = state.tone === "good";
  setText(veil.querySelector("strong"), sentence(state.title));
  setText(veil.querySelector(".words"), state.words);
  setText(veil.querySelector(".why"), state.reason);
}
