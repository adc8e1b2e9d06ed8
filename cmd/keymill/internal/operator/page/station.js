// The page shows what the station decides, and sends what is scanned. It keeps no
// state of its own but the name of its tab.
"use strict";
(() => {
  const silence = Number(document.body.dataset.silence); // ms after which a scan without Enter or Tab has ended
  const screen = document.getElementById("screen");
  const lost = document.getElementById("lost");
  const viewer = document.getElementById("viewer");
  const random = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");
  let tab = sessionStorage.getItem("tab");
  if (!tab) sessionStorage.setItem("tab", tab = random());

  // Tones: high and short for good, low and twice for bad.
  let audio;
  const beep = (frequency, from, length) => {
    const osc = audio.createOscillator(), gain = audio.createGain();
    osc.type = "square";
    osc.frequency.value = frequency;
    gain.gain.value = 0.15;
    osc.connect(gain).connect(audio.destination);
    osc.start(audio.currentTime + from);
    osc.stop(audio.currentTime + from + length);
  };
  const play = (kind) => {
    if (!audio || audio.state !== "running") return;
    if (kind === "good") beep(1320, 0, 0.12);
    if (kind === "bad") { beep(220, 0, 0.25); beep(220, 0.35, 0.35); }
  };
  const wake = () => {
    if (!audio && window.AudioContext) audio = new AudioContext();
    if (audio && audio.state === "suspended") audio.resume();
  };

  const main = () => document.getElementById("main");
  let tone = Number(main().dataset.tone);

  // show replaces the parts that differ, so that what has the focus keeps it.
  const show = (html) => {
    const fresh = document.createElement("template");
    fresh.innerHTML = html;
    for (const id of ["head", "main", "slots"]) {
      const now = document.getElementById(id), next = fresh.content.getElementById(id);
      if (now.outerHTML === next.outerHTML) continue;
      const held = id === "main" && now.contains(document.activeElement) ? document.activeElement.dataset.scan : "";
      const same = id === "main" && next.querySelector("#pin") && now.querySelector("#pin");
      const typed = same ? now.querySelector("#pincode").value : "";
      now.replaceWith(next);
      if (same && now.dataset.screen === next.dataset.screen) next.querySelector("#pincode").value = typed;
      if (held) next.querySelector(`[data-scan="${CSS.escape(held)}"]`)?.focus();
    }
    document.getElementById("pincode")?.focus();
    const seq = Number(main().dataset.tone);
    if (seq !== tone) play(main().dataset.kind);
    tone = seq;
  };
  let drawing = false, again = false;
  const draw = async () => {
    if (drawing) { again = true; return; }
    drawing = true;
    try {
      do {
        again = false;
        const answer = await fetch("/screen");
        if (answer.status === 403) { location.reload(); return; }
        if (answer.ok) show(await answer.text());
      } while (again);
    } catch { /* the stream says that the station is gone */ } finally { drawing = false; }
  };

  // Scans are sent one after the other. One that got no answer is sent again with
  // the same id, by which the station knows it.
  let queue = Promise.resolve();
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  const post = async (body, headers) => {
    for (let tries = 0; tries < 8; tries++) {
      try {
        const answer = await fetch("/api/v1/scan", {method: "POST", body, headers: {"Content-Type": "application/json", "X-Keymill-Tab": tab, ...headers}});
        if (answer.status === 403) location.reload();
        if (answer.status === 409 || answer.status === 400) play("bad");
        return;
      } catch { await pause(400); }
    }
    play("bad");
  };
  const send = (text, headers = {}) => {
    if (!viewer.hidden || !lost.hidden) { play("bad"); return; }
    const body = JSON.stringify({id: random(), text});
    queue = queue.then(() => post(body, headers)).then(draw);
  };

  // What a scanner types is caught here, wherever the focus is.
  let typed = "", timer = 0;
  const finish = (ended) => {
    clearTimeout(timer);
    const text = typed;
    typed = "";
    if (text.length > 2 || ended && text.length > 0) {
      if (text.trim().toUpperCase() === "TAKEOVER") take(); else send(text);
    }
  };
  document.addEventListener("keydown", (e) => {
    wake();
    if (main().dataset.capture !== "yes" || e.isComposing || e.metaKey || e.altKey && !e.getModifierState("AltGraph")) return;
    if ((e.key === "Enter" || e.key === "Tab") && typed) {
      e.preventDefault();
      finish(true);
      return;
    }
    let key = e.key.length === 1 ? e.key : "";
    if (e.ctrlKey && !e.getModifierState("AltGraph")) key = e.key === "]" ? "\x1d" : ""; // GS
    if (!key || key === " " && !typed) return;
    e.preventDefault();
    if (typed.length < 512) typed += key;
    clearTimeout(timer);
    timer = setTimeout(() => finish(false), silence);
  }, true);

  document.addEventListener("pointerdown", wake);
  document.addEventListener("click", (e) => {
    const button = e.target.closest("button");
    if (!button) return;
    const pin = document.getElementById("pincode");
    if (button.dataset.key && pin) {
      pin.value = button.dataset.key === "back" ? pin.value.slice(0, -1) : pin.value + button.dataset.key;
      pin.focus();
    }
    if (button.dataset.scan) send(button.dataset.scan, {"If-Match": `"${main().dataset.screen}"`});
    if (button.id === "take") take();
  });
  document.addEventListener("submit", (e) => {
    e.preventDefault();
    const pin = document.getElementById("pincode");
    if (pin && pin.value) send(pin.value, {"If-Match": `"${main().dataset.screen}"`});
    if (pin) pin.value = "";
  });
  const take = () => fetch("/api/v1/takeover", {method: "POST", headers: {"X-Keymill-Tab": tab}}).then(draw, () => {});

  const listen = () => {
    const events = new EventSource(`/api/v1/events?tab=${tab}`);
    events.onopen = () => { lost.hidden = true; };
    events.onmessage = draw;
    events.addEventListener("tab", (e) => { viewer.hidden = JSON.parse(e.data).active; });
    events.onerror = () => {
      lost.hidden = false;
      if (events.readyState !== EventSource.CLOSED) return; // the browser tries again
      fetch("/screen").then((answer) => { if (answer.status === 403) location.reload(); }, () => {});
      setTimeout(listen, 1000);
    };
    window.addEventListener("pagehide", () => events.close(), {once: true});
  };
  listen();
})();
