// What is typed into the editor of rules outlives its page: a sign-in that ends meanwhile, Back, a browser that breaks down.
// It is kept by the tab, until it is a draft.
"use strict";

const KEPT = "rules";
const read = () => JSON.parse(sessionStorage.getItem(KEPT));
const write = (what) => sessionStorage.setItem(KEPT, JSON.stringify(what));

function keep(box) {
  const given = box.defaultValue, before = read();
  const isOfIt = before && [before.first, before.typed].includes(given);
  const first = isOfIt ? before.first : given;
  box.addEventListener("input", () => write({ first, typed: box.value }));
  box.form.addEventListener("submit", () => write({ first, typed: box.value, isSent: true }));
  box.form.addEventListener("reset", () => sessionStorage.removeItem(KEPT));
  if (!isOfIt || before.typed === given) return;
  box.value = before.typed;
  box.form.querySelector(".back").hidden = false;
  box.dispatchEvent(new Event("input", { bubbles: true }));  // what is wrong with it is asked again
}

document.addEventListener("DOMContentLoaded", () => {  // after htmx, which sees then that the text is another one
  const box = document.querySelector("textarea.code");
  if (box) keep(box);
  else if (read()?.isSent) sessionStorage.removeItem(KEPT);
});
