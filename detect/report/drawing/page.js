"use strict";
// A click on a head sorts the rows: numbers fall first, names rise first, gaps stay last.
function compare(a, b, numeric, sign) {
  if (!numeric) return sign * a.textContent.localeCompare(b.textContent);
  const [x, y] = [a.dataset.value, b.dataset.value];
  if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
  return sign * (Number(x) - Number(y));
}
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const numeric = !head.classList.contains("text");
      const before = head.getAttribute("aria-sort");
      const rising = before ? before === "descending" : !numeric;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => compare(a.cells[column], b.cells[column], numeric, rising ? 1 : -1));
      table.tBodies[0].append(...rows);
    });
  });
}

// The contents say which section is in view: the last one whose head is above a third of it.
const links = [...document.querySelectorAll("nav a")];
const parts = links.map(link => document.getElementById(link.hash.slice(1)));
function markPlace() {
  const line = innerHeight / 3;
  const atEnd = innerHeight + scrollY >= document.documentElement.scrollHeight - 2 && scrollY > 0;
  let here = 0;
  parts.forEach((part, i) => { if (part.getBoundingClientRect().top <= line) here = i; });
  if (atEnd) here = parts.length - 1;
  links.forEach((link, i) => {
    if (i !== here) return link.removeAttribute("aria-current");
    if (link.getAttribute("aria-current")) return;
    link.setAttribute("aria-current", "true");
    const bar = link.closest("nav");  // on narrow screens it scrolls sideways
    bar.scrollLeft = link.offsetLeft - bar.clientWidth / 2;
  });
}
if (links.length) {
  addEventListener("scroll", markPlace, { passive: true });
  addEventListener("resize", markPlace);
  markPlace();
}
// What a link leads to is shown, even where it is folded.
for (const folded of document.querySelectorAll("details")) {
  folded.addEventListener("toggle", markPlace);
}
