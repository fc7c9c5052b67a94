// Waiting, and formatting of durations.

export const isSeen = () => document.visibilityState === "visible";

// Wait, but only until somebody looks at the page again: browsers slow down the timers of hidden pages.
export function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", end);
      signal?.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, milliseconds);
    document.addEventListener("visibilitychange", end);
    signal?.addEventListener("abort", end);
    if (signal?.aborted) end();
  });
}

export function duration(seconds) {
  if (seconds === null) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  return seconds < 120 ? `${seconds.toFixed(1)} s` : `${Math.round(seconds / 60)} min`;
}
