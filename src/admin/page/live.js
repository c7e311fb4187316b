// Brings the page up to date every few seconds. Without it the page is as it was when it was loaded.
"use strict";
(() => {
  const every = 5000;
  const line = document.getElementById("live");
  const words = document.createElement("span");
  const button = document.createElement("button");
  let paused = false;
  button.type = "button";
  line.append(words, " ", button);
  const tell = (text) => { if (words.textContent !== text) words.textContent = text; };
  const label = () => { button.textContent = paused ? "Go on" : "Pause"; tell(paused ? "Paused" : "Live"); };
  button.addEventListener("click", () => { paused = !paused; label(); });
  label();

  // Somebody reads, selects or tabs through what would be replaced.
  const isInUse = (main) => {
    const selection = document.getSelection();
    const selects = selection && !selection.isCollapsed && main.contains(selection.anchorNode);
    return selects || (main.contains(document.activeElement) && document.activeElement !== main);
  };

  const update = async () => {
    const main = document.getElementById("main");
    if (paused || document.hidden || isInUse(main)) return;
    try {
      const answer = await fetch("/", { cache: "no-store", signal: AbortSignal.timeout(every) });
      if (!answer.ok) throw new Error(String(answer.status));
      const next = new DOMParser().parseFromString(await answer.text(), "text/html");
      main.replaceWith(next.getElementById("main"));
      document.title = next.title;
      tell("Live");
    } catch {
      tell("No answer; what is shown is from before");
    }
  };
  setInterval(update, every);
})();
