"use strict";
(() => {
  const one = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const element = (name, text = "", className = "") => {
    const made = document.createElement(name);
    made.textContent = text;
    made.className = className;
    return made;
  };
  all(".needs-script").forEach((node) => { node.hidden = false; });

  // Theme: what the system says, until the button says otherwise. A page opened from a file may have no storage.
  const themes = ["auto", "light", "dark"];
  const remembered = () => { try { return localStorage.getItem("maskmill-theme"); } catch { return null; } };
  const setTheme = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    one("#theme span").textContent = theme;
    try { localStorage.setItem("maskmill-theme", theme); } catch { /* it lasts as long as the page */ }
  };
  setTheme(themes.includes(remembered()) ? remembered() : "auto");
  one("#theme").addEventListener("click", () => {
    setTheme(themes[(themes.indexOf(one("#theme span").textContent) + 1) % themes.length]);
  });

  // Table of classes: search, filter, sort.
  const body = one("#class-table tbody");
  const rows = all("tr", body);
  const nameOf = (row) => one("th", row).dataset.v;
  const showRows = () => {
    const wanted = one("#class-search").value.trim().toLocaleLowerCase();
    const kind = one("#class-kind").value;
    let shown = 0;
    for (const row of rows) {
      row.hidden = !(nameOf(row).toLocaleLowerCase().includes(wanted) && (!kind || row.classList.contains(kind)));
      shown += !row.hidden;
    }
    one("#class-count").textContent = `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")} classes`;
  };
  one("#class-search").addEventListener("input", showRows);
  one("#class-kind").addEventListener("change", showRows);
  showRows();
  const byText = new Intl.Collator(undefined, { numeric: true }).compare;
  all("#class-table thead th").forEach((heading, column) => {
    const button = one(".sort", heading);
    if (!button) return;
    button.addEventListener("click", () => {
      const isText = "text" in heading.dataset;
      const rising = heading.ariaSort ? heading.ariaSort !== "ascending" : isText;
      all("#class-table thead th").forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const value = (row) => row.children[column].dataset.v;
      const compare = isText
        ? (a, b) => byText(value(a), value(b))
        : (a, b) => Number(value(a)) - Number(value(b));
      // Cells without a value stay at the end, whichever way the others go.
      rows.sort((a, b) => (value(a) === "") - (value(b) === "") || (rising ? compare(a, b) : compare(b, a)));
      body.append(...rows);
    });
  });

  // Gallery: filter by class, strength of the overlay.
  const cards = all("#gallery-cards .card");
  const filter = one("#gallery-class");
  const showCards = () => {
    let shown = 0;
    for (const card of cards) {
      card.hidden = filter.value !== "" && !card.dataset.classes.includes(` ${filter.value} `);
      shown += !card.hidden;
    }
    one("#gallery-count").textContent = `${shown} of ${cards.length} images`;
  };
  if (filter) {
    filter.addEventListener("change", showCards);
    showCards();
    all("a.see").forEach((link) => link.addEventListener("click", () => {
      filter.value = link.dataset.class;
      showCards();
    }));
    one("#strength").addEventListener("input", (event) => {
      document.documentElement.style.setProperty("--strength", event.target.value / 100);
    });
  }

  // Segments: pointing at one, or at its name, lights up both; a click or Enter keeps it.
  const tip = one("#tip");
  const holder = (node) => node.closest(".card, .viewer-body");
  const chipOf = (root, number) => one(`.chip[data-s="${number}"]`, root);
  const light = (root, number) => {
    const picture = one(".picture", root);
    picture.classList.toggle("active", number !== null);
    all("path[data-s]", picture).forEach((path) => path.classList.toggle("on", path.dataset.s === number));
    all("tr[data-s]", root).forEach((row) => row.classList.toggle("on", row.dataset.s === number));
  };
  const pinned = (root) => one('.chip[aria-pressed="true"]', root)?.dataset.s ?? null;
  const tell = (chip, x, y) => {
    tip.replaceChildren(
      element("bdi", one(".name", chip).textContent, "name"),
      element("span", `score ${chip.dataset.score} · ${chip.dataset.share} of the image · ${Number(chip.dataset.area).toLocaleString("en")} px`),
    );
    tip.hidden = false;
    tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - tip.offsetWidth - 4))}px`;
    tip.style.top = `${y + 18 + tip.offsetHeight > innerHeight ? y - tip.offsetHeight - 10 : y + 18}px`;
  };
  const pin = (root, number) => {
    const now = pinned(root) === number ? null : number;
    all(".chip", root).forEach((chip) => chip.setAttribute("aria-pressed", String(chip.dataset.s === now)));
    light(root, now);
    return now;
  };
  all(".chip").forEach((chip) => chip.setAttribute("aria-pressed", "false"));
  document.addEventListener("pointerover", (event) => {
    const part = event.target.closest("path[data-s], .chip");
    if (part) light(holder(part), part.dataset.s);
  });
  document.addEventListener("pointermove", (event) => {
    const path = event.target.closest("path[data-s]");
    const chip = path && chipOf(holder(path), path.dataset.s);
    if (chip) tell(chip, event.clientX, event.clientY);
    else if (!event.target.closest(".chip")) tip.hidden = true;
  });
  document.addEventListener("pointerout", (event) => {
    const part = event.target.closest("path[data-s], .chip");
    if (!part) return;
    light(holder(part), pinned(holder(part)));
    if (event.pointerType === "mouse") tip.hidden = true;
  });
  document.addEventListener("focusin", (event) => {
    const chip = event.target.closest(".chip");
    if (chip) light(holder(chip), chip.dataset.s);
  });
  document.addEventListener("focusout", (event) => {
    const chip = event.target.closest(".chip");
    if (chip) light(holder(chip), pinned(holder(chip)));
    tip.hidden = true;
  });
  document.addEventListener("click", (event) => {
    const part = event.target.closest("path[data-s], .chip");
    if (!part) return;
    const root = holder(part);
    const kept = pin(root, part.dataset.s);
    const box = part.getBoundingClientRect();
    if (kept === null || part.closest("table")) tip.hidden = true;
    else if (part.matches(".chip")) tell(part, box.left, box.bottom - 10);
    else tell(chipOf(root, kept), event.clientX, event.clientY);
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  // Viewer: the image large, its segments as a table, where it comes from.
  const viewer = one("#viewer");
  const cell = (name, text, className) => element(name, text, className);
  const segmentTable = (card) => {
    const table = element("table");
    const head = table.createTHead().insertRow();
    ["Segment", "score", "share", "pixels", "stability", "agrees"].forEach((text, column) => {
      const heading = cell("th", text, column ? "number" : "");
      heading.scope = "col";
      head.append(heading);
    });
    const lines = table.createTBody();
    for (const chip of all(".chip", card)) {
      const line = lines.insertRow();
      line.dataset.s = chip.dataset.s;
      const name = element("th");
      name.scope = "row";
      name.append(chip.cloneNode(true));
      one(".score", name).remove();
      line.append(name);
      const values = [chip.dataset.score, chip.dataset.share, Number(chip.dataset.area).toLocaleString("en"), chip.dataset.stability, chip.dataset.agreement];
      line.append(...values.map((value) => cell("td", value, "number")));
    }
    const scroll = element("div", "", "scroll");
    scroll.tabIndex = 0;
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", "Segments of the image");
    scroll.append(table);
    return scroll;
  };
  const provenance = (card) => {
    const meta = element("div", "", "meta muted");
    meta.append(element("span", `${card.dataset.size} pixels, ${card.dataset.coverage} of them named`));
    const place = element("span");
    if (card.dataset.link) {
      const link = element("a", card.dataset.uri);
      link.href = card.dataset.link;
      link.rel = "noopener noreferrer";
      link.target = "_blank";
      place.append(link);
    } else place.append(element("bdi", card.dataset.uri));
    meta.append(place, element("code", card.dataset.command));
    return meta;
  };
  document.addEventListener("click", (event) => {
    const card = event.target.closest(".enlarge")?.closest(".card");
    if (!card) return;
    one("#viewer-title").replaceChildren(element("bdi", card.dataset.id));
    one(".viewer-body", viewer).replaceChildren(one(".picture", card).cloneNode(true), segmentTable(card), provenance(card));
    tip.hidden = true;
    viewer.append(tip);
    viewer.showModal();
  });
  one("#viewer-close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("close", () => { document.body.append(tip); tip.hidden = true; });
})();
