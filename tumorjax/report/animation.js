/* The player of an animation: all frames of a plane are in one picture, which moves behind a window. */
"use strict";
(() => {
  const player = document.getElementById("player");
  const part = (name) => player.querySelector(`[data-part="${name}"]`);
  const { moments, seconds } = JSON.parse(document.getElementById("times").textContent);
  const sheets = player.querySelectorAll(".screen img");
  const [button, bar, label, facts] = ["play", "time", "label", "facts"].map(part);
  const last = moments.length - 1;
  const now = () => performance.now() / 1000;
  /* Milliseconds between two looks at the clock; a frame stands for longer. */
  const LOOK = 40;
  /* Seconds of the film at which it stands; the clock's time at its beginning, and the timer while it runs. */
  let at = seconds, begun = 0, timer = null;

  function show(number) {
    const each = moments[number];
    for (const sheet of sheets) sheet.style.transform = `translate(-${each.across}%, -${each.down}%)`;
    bar.value = number;
    bar.setAttribute("aria-valuetext", each.label);
    label.textContent = each.label;
    facts.textContent = each.facts;
  }

  function pause() {
    clearInterval(timer);
    timer = null;
    button.textContent = "Play";
  }

  function step() {
    at = Math.min(now() - begun, seconds);
    show(moments.findLastIndex((each) => each.begin <= at));
    if (at >= seconds) pause();
  }

  function play() {
    if (at >= seconds) at = 0;
    begun = now() - at;
    timer = setInterval(step, LOOK);
    button.textContent = "Pause";
    step();
  }

  button.addEventListener("click", () => (timer === null ? play() : pause()));
  bar.addEventListener("input", () => {
    pause();
    const number = Number(bar.value);
    at = number === last ? seconds : moments[number].begin;
    show(number);
  });
  player.classList.add("ready");
  show(last);
  /* It begins by itself unless the reader's system asks for less motion; then it waits for the button. */
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) play();
})();
