// Reads the page again when the node has changed, and replaces what differs. Without this script a page is as good as
// when it was loaded. Nothing from the network's configuration is made into HTML here: the server has done that.
"use strict";

(() => {
  const told = document.getElementById("live");
  let running = false;
  let again = false;

  const say = (state, text) => {
    told.dataset.state = state;
    told.textContent = text;
  };

  const place = (element) => {
    const found = element && element.closest("[data-live]");
    if (!found) return null;
    if (element.id) return (root) => root.querySelector("#" + CSS.escape(element.id));
    const link = element.getAttribute("href");
    return link && ((root) => root.querySelector(`a[href="${CSS.escape(link)}"]`));
  };

  const replace = (fresh) => {
    for (const now of document.querySelectorAll("[data-live]")) {
      const then = fresh.getElementById(now.id);
      if (!then || then.innerHTML === now.innerHTML) continue;
      const focused = now.contains(document.activeElement) ? place(document.activeElement) : null;
      const scrolled = [...now.querySelectorAll(".scroll, .table")].map((each) => each.scrollLeft);
      const open = [...now.querySelectorAll("details[open][id]")].map((each) => each.id);
      now.replaceChildren(...then.childNodes);
      for (const id of open) document.getElementById(id)?.setAttribute("open", "");
      [...now.querySelectorAll(".scroll, .table")].forEach((each, index) => (each.scrollLeft = scrolled[index] || 0));
      const target = focused && focused(now);
      if (target) target.focus({ preventScroll: true });
    }
    document.title = fresh.title;
  };

  const refresh = async () => {
    if (document.hidden || running) {
      again = true;
      return;
    }
    running = true;
    again = false;
    try {
      const answer = await fetch(location.href, { cache: "no-store", credentials: "same-origin" });
      replace(new DOMParser().parseFromString(await answer.text(), "text/html"));
      say("on", "Live: this page follows the node.");
    } catch {
      say("lost", "The looking glass does not answer; this page is as it was.");
    } finally {
      running = false;
    }
    if (again) refresh();
  };

  const times = () => {
    for (const each of document.querySelectorAll("time[datetime]")) {
      const seconds = Math.floor((Date.now() - Date.parse(each.dateTime)) / 1000);
      if (!(seconds >= 0)) continue;
      const [size, unit] = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]].find(([size]) => seconds >= size) || [1, "s"];
      const text = seconds < 1 ? "just now" : `${Math.floor(seconds / size)} ${unit} ago`;
      if (each.textContent !== text) each.textContent = text;
    }
  };

  const stream = new EventSource("/live");
  // What changed after the page was made and before the stream was open is told to nobody: so the page is read again.
  stream.addEventListener("open", refresh);
  stream.addEventListener("change", refresh);
  stream.addEventListener("error", () => say("lost", "The looking glass does not answer; this page is as it was."));
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && again) refresh();
  });
  setInterval(times, 1000);
})();
