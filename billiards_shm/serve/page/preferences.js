// Theme and view: applied before the page is painted, chosen by radio buttons, kept by the browser.

(() => {
  const root = document.documentElement;
  const kept = { theme: "auto", view: "cards" };
  for (const which of Object.keys(kept)) {
    try {
      root.dataset[which] = localStorage.getItem(`billiards_shm.${which}`) ?? kept[which];
    } catch {
      root.dataset[which] = kept[which]; // in a frame on another site there may be no storage
    }
  }
  document.addEventListener("change", ({ target }) => {
    if (!(target.name in kept)) return;
    root.dataset[target.name] = target.value;
    try {
      localStorage.setItem(`billiards_shm.${target.name}`, target.value);
    } catch {
      // It lasts until the page is left.
    }
  });
  document.addEventListener("DOMContentLoaded", () => {
    for (const radio of document.querySelectorAll("input[type=radio]")) radio.checked = root.dataset[radio.name] === radio.value;
  });
})();
