// Times in the reader's own zone, parts that come anew leave a reader in peace, and a word where the gateway does not answer.
// Nothing here is needed to use a page.
"use strict";

function localTimes(root) {
  for (const one of root.querySelectorAll("time[datetime]")) {
    const moment = new Date(one.dateTime);
    if (Number.isNaN(moment.valueOf())) continue;
    const today = moment.toDateString() === new Date().toDateString();
    one.title = moment.toLocaleString(undefined, { dateStyle: "full", timeStyle: "long" });
    one.textContent = moment.toLocaleString(undefined, today ? { timeStyle: "medium" } : { dateStyle: "medium", timeStyle: "short" });
  }
}

// What somebody is about to do, or types, is not taken from under their hands.
function isInUse(part) {
  const active = document.activeElement;
  return part.querySelector("details.act[open]") !== null || (part.contains(active) && active.matches("input, select, textarea"));
}

// Where the reader was within a part: what was open, and what had the focus.
let left = null;

function nameOf(element) {
  return element.tagName + (element.getAttribute("href") || element.getAttribute("name") || element.textContent.trim());
}

function leave(part) {
  const active = part.contains(document.activeElement) ? nameOf(document.activeElement) : null;
  left = { id: part.id, active, open: [...part.querySelectorAll("details")].map((one) => [nameOf(one.querySelector("summary")), one.open]) };
}

function comeBack() {
  const part = left && document.getElementById(left.id);
  if (!part) return;
  const open = new Map(left.open);
  for (const one of part.querySelectorAll("details")) {
    const was = open.get(nameOf(one.querySelector("summary")));
    if (was !== undefined) one.open = was;
  }
  const again = left.active && [...part.querySelectorAll("a, button, summary")].find((one) => nameOf(one) === left.active);
  if (again) again.focus({ preventScroll: true });
  left = null;
}

const REFUSED = [403, 404, 409, 413, 422];
document.addEventListener("htmx:beforeSwap", (event) => {
  // Why not stands where the answer would: a part of what is not there any more goes, and asks no more.
  if (REFUSED.includes(event.detail.xhr.status)) event.detail.shouldSwap = true;
  if (event.detail.xhr.status !== 200 || !event.detail.target.id) return;
  if (isInUse(event.detail.target)) event.detail.shouldSwap = false;
  else leave(event.detail.target);
});
document.addEventListener("htmx:afterSettle", () => {
  comeBack();
  localTimes(document);
});
localTimes(document);

// A live part could not be fetched: what is shown is as old as the moment of the last answer.
let answered = new Date();
function tellAway() {
  if (document.getElementById("away")) return;
  const told = document.createElement("p");
  told.id = "away";
  told.className = "told problem";
  told.setAttribute("role", "status");
  told.textContent = `The gateway does not answer. This page shows what was so at ${answered.toLocaleTimeString()}; it goes on by itself.`;
  document.getElementById("content").prepend(told);
}

document.addEventListener("htmx:sendError", tellAway);
document.addEventListener("htmx:timeout", tellAway);  // it is there, or a network says so, and nothing comes
document.addEventListener("htmx:responseError", (event) => {
  if (event.detail.xhr.status >= 500 || event.detail.xhr.status === 429) tellAway();
});
document.addEventListener("htmx:afterRequest", (event) => {
  if (event.detail.successful) {
    answered = new Date();
    document.getElementById("away")?.remove();
  }
});

// The second click of a double click would do the same act again, and its answer would be the one that is shown.
const acted = new WeakMap();
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method === "post" && event.timeStamp - (acted.get(form) ?? -Infinity) < 2000) event.preventDefault();
  else acted.set(form, event.timeStamp);
});

// On a phone the navigation is wider than the screen: it begins where the reader is.
const here = document.querySelector(".top nav a[aria-current]");
if (here) here.closest("ul").scrollLeft = here.offsetLeft - here.closest("ul").offsetLeft - 40;
