// A plot of the last minutes, as SVG.

const WIDTH = 300;
const HEIGHT = 60;
const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// The next round number.
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1e-3)));
  return power * [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((step) => step * power >= value * 0.999);
}

// `values`: one per second, the newest last, null where there was none. `length`: how many fill the width. Returns the
// value at the top, or null if there is none.
export function drawPlot(svg, values, length, unit) {
  const known = values.filter((value) => value !== null);
  const top = ceiling(Math.max(1, ...known));
  const x = (index) => (WIDTH * (index + length - values.length)) / (length - 1);
  const y = (value) => HEIGHT - (HEIGHT * Math.min(value, top)) / top;
  const runs = [];
  values.forEach((value, index) => {
    if (value === null) return;
    if (index === 0 || values[index - 1] === null) runs.push([]);
    runs.at(-1).push([x(index), y(value)]);
  });
  const drawn = [element("line", { class: "axis", x1: 0, y1: HEIGHT, x2: WIDTH, y2: HEIGHT })];
  for (const run of runs) {
    if (run.length === 1) run.push(run[0]); // a line with one point is not drawn, one from a point to itself is
    const line = run.map(([a, b]) => `${a.toFixed(1)},${b.toFixed(1)}`).join(" ");
    const [first] = run[0];
    const [last] = run.at(-1);
    drawn.push(element("polygon", { class: "area", points: `${first.toFixed(1)},${HEIGHT} ${line} ${last.toFixed(1)},${HEIGHT}` }));
    drawn.push(element("polyline", { class: "curve", points: line }));
  }
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.replaceChildren(...drawn);
  const now = values.at(-1);
  const least = known.length ? Math.min(...known) : null;
  const words = known.length
    ? `now ${now === null || now === undefined ? "none" : now.toFixed(0)}, between ${least.toFixed(0)} and ${Math.max(...known).toFixed(0)} ${unit}`
    : "nothing yet";
  svg.setAttribute("aria-label", words);
  return known.length ? top : null;
}
