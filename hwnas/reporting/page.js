"use strict";
// Adds interaction to a page that is complete without scripts: values of charts under the pointer
// and by arrow keys, series that can be hidden, tables that can be sorted, and a choice of theme.
(() => {
  const root = document.documentElement;
  const tip = document.getElementById("tip");

  function showTip(text, box) {
    tip.textContent = text;
    const left = Math.min(box.left + box.width / 2 + 12, innerWidth - tip.offsetWidth - 8);
    const above = box.top - tip.offsetHeight - 8;
    tip.style.left = Math.max(8, left) + "px";
    const below = Math.min(box.bottom, innerHeight - 60) + 8;
    tip.style.top = (above < 8 ? below : above) + "px";
  }

  // Show the title of a chart's mark, which holds its values, as a tip. Browsers would show it
  // only after a delay, and only under a pointer.
  function explore(svg) {
    const marks = [...svg.querySelectorAll("g.mark")];
    if (!marks.length) return;
    let current = null;
    const texts = new Map(marks.map((mark) => [mark, mark.querySelector("title").textContent]));
    marks.forEach((mark) => mark.querySelector("title").remove());

    function point(mark) {
      if (current) current.classList.remove("on");
      current = mark;
      if (!mark) {
        tip.textContent = "";
        return;
      }
      mark.classList.add("on");
      showTip(texts.get(mark), mark.getBoundingClientRect());
    }

    function visible() {
      return marks.filter((mark) => !mark.closest("[hidden]"));
    }

    marks.forEach((mark) => mark.addEventListener("pointerover", () => point(mark)));
    svg.addEventListener("pointerleave", () => point(null));
    svg.addEventListener("blur", () => point(null));
    svg.tabIndex = 0;
    // Screen readers pass arrow keys only to elements with the role of an application.
    svg.setAttribute("role", "application");
    svg.setAttribute("aria-roledescription", "chart, arrow keys read its values");
    svg.addEventListener("keydown", (event) => {
      const shown = visible();
      const place = shown.indexOf(current);
      const next = {
        ArrowRight: place + 1,
        ArrowDown: place + 1,
        ArrowLeft: place < 0 ? shown.length - 1 : place - 1,
        ArrowUp: place < 0 ? shown.length - 1 : place - 1,
        Home: 0,
        End: shown.length - 1,
      }[event.key];
      if (event.key === "Escape") point(null);
      if (next === undefined || !shown.length) return;
      event.preventDefault();
      point(shown[Math.min(Math.max(next, 0), shown.length - 1)]);
    });
  }

  function sortable(table) {
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells];
    const given = [...body.rows];

    // Cells are sorted by the number that they begin with; cells without one come last.
    function key(row, column) {
      const text = row.cells[column].textContent.trim();
      const number = /^-?[\d,]*\.?\d+(e[-+]?\d+)?/.exec(text);
      return number ? Number(number[0].replaceAll(",", "")) : text || "\uffff";
    }

    function compare(a, b) {
      if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
      return typeof a === "number" ? -1 : 1;
    }

    heads.forEach((head, column) => {
      if (!head.textContent.trim()) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const before = head.getAttribute("aria-sort");
        const order = { none: "descending", descending: "ascending", ascending: "none" }[before];
        table.querySelectorAll("th[aria-sort]").forEach((other) => {
          other.setAttribute("aria-sort", "none");
        });
        head.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        const rows = order === "none" ? given
          : [...given].sort((a, b) => sign * compare(key(a, column), key(b, column)));
        body.append(...rows);
      });
    });
  }

  // Clicking an item of a legend hides or shows its series in all drawings of the figure.
  function switchable(item) {
    const chart = item.closest(".chart");
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", "true");
    button.append(...item.childNodes);
    item.append(button);
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(shown));
      chart.querySelectorAll(`svg [data-series="${item.dataset.series}"]`).forEach((part) => {
        part.toggleAttribute("hidden", !shown);
      });
    });
  }

  function remembered() {
    try {
      return localStorage.getItem("hwnas-theme");
    } catch {
      return null; // Pages opened from a file may have no storage.
    }
  }

  function themes(button) {
    const system = matchMedia("(prefers-color-scheme: dark)");
    const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
    const label = () => (button.textContent = isDark() ? "Light theme" : "Dark theme");
    const chosen = remembered();
    if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;
    button.hidden = false;
    label();
    system.addEventListener("change", label);
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      label();
      try {
        localStorage.setItem("hwnas-theme", root.dataset.theme);
      } catch {
        // The choice is kept until the page is closed.
      }
    });
  }

  themes(document.getElementById("theme"));
  document.querySelectorAll("svg").forEach(explore);
  document.querySelectorAll("table.sortable").forEach(sortable);
  document.querySelectorAll(".legend li[data-series]").forEach(switchable);
  addEventListener("scroll", () => (tip.textContent = ""), { passive: true });
  root.dataset.script = "on";
})();
