// The slider of a picture: shows plane after plane without a reload. Without this, the form's button does it.
"use strict";

function look(viewer) {
  const { source, overlay, count } = viewer.dataset;
  const under = viewer.querySelector(".under"), over = viewer.querySelector(".over");
  const slider = viewer.querySelector("input[type=range]"), chosen = viewer.querySelector("select");
  const shows = viewer.querySelector(".shows"), failed = viewer.querySelector(".failed");
  const positions = [...viewer.querySelectorAll(".positions li")].map((one) => one.textContent.trim());
  const address = (place) => `${source}${place}.png${chosen.value ? `?window=${encodeURIComponent(chosen.value)}` : ""}`;
  let wanted = null, busy = false;

  // One plane is loaded at a time, and always the one that was asked for last.
  async function show(place) {
    wanted = place;
    if (busy) return;
    busy = true;
    while (wanted !== null) {
      const now = wanted;
      wanted = null;
      await draw(now);
    }
    busy = false;
  }

  async function draw(place) {
    const pictures = [[under, address(place)]];
    if (over) pictures.push([over, `${overlay}${place}.png`]);
    const loaded = await Promise.all(pictures.map(([, url]) => load(url)));
    const problem = loaded.find((one) => typeof one === "string");
    failed.hidden = problem === undefined;
    failed.textContent = problem ?? "";
    pictures.forEach(([image, url], which) => { if (typeof loaded[which] !== "string") image.src = url; });
    under.alt = `Image ${place + 1} of ${count}`;
    viewer.querySelector("output").textContent = place + 1;
    viewer.querySelector(".position").textContent = positions[place] ? `, at ${positions[place]} mm` : "";
    slider.setAttribute("aria-valuetext", `${place + 1} of ${count}`);
    for (const next of [place + 1, place - 1]) if (next >= 0 && next < count) new Image().src = address(next);
  }

  // The picture, or why there is none.
  async function load(url) {
    const image = new Image();
    image.src = url;
    try {
      await image.decode();
      return image;
    } catch {
      const answer = await fetch(url).catch(() => null);
      return answer ? (await answer.text()).slice(0, 300) : "The gateway does not answer.";
    }
  }

  slider.addEventListener("input", () => show(Number(slider.value)));
  chosen.addEventListener("change", () => show(Number(slider.value)));
  if (shows) shows.addEventListener("change", () => viewer.querySelector(".stack").classList.toggle("plain", !shows.checked));
  viewer.querySelector(".stack").addEventListener("wheel", (event) => {
    event.preventDefault();
    slider.value = Number(slider.value) + Math.sign(event.deltaY);
    show(Number(slider.value));
  }, { passive: false });
  viewer.classList.add("scripted");
  draw(Number(slider.value));
}

document.querySelectorAll(".viewer").forEach(look);
