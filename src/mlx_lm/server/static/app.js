// The chat: one conversation, streamed answers, and a live view of the server.
import { markdown } from "/static/markdown.js";

const $ = (id) => document.getElementById(id);
const OPTIONS = ["temperature", "top_p", "top_k", "min_p", "seed", "max_tokens"];
const FIELDS = ["system", ...OPTIONS];
const FRAME_MS = 60; // an answer is drawn again at most this often

const state = {
  messages: load("messages", []),
  running: null, // AbortController of the answer being written
};

// ------------------------------------------------------------------ what is kept in this browser

function load(name, fallback) {
  try {
    return JSON.parse(localStorage.getItem(`mlx-lm.${name}`)) ?? fallback;
  } catch {
    return fallback;
  }
}

function save(name, value) {
  try {
    localStorage.setItem(`mlx-lm.${name}`, JSON.stringify(value));
  } catch {
    // A full or forbidden storage: the conversation lives as long as the page.
  }
}

function saveMessages() {
  save("messages", state.messages);
}

// ------------------------------------------------------------------ the server

function headers() {
  const key = $("key").value.trim();
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function problem(reply) {
  try {
    const body = await reply.json();
    return body.error?.message ?? body.message ?? `The server answered ${reply.status}.`;
  } catch {
    return `The server answered ${reply.status}.`;
  }
}

async function listModels() {
  const reply = await fetch("/v1/models", { headers: headers() });
  if (!reply.ok) throw new Error(await problem(reply));
  const models = (await reply.json()).data.filter((model) => model.kind !== "embed");
  const chosen = load("model", "");
  $("model").replaceChildren(...models.map((model) => new Option(model.id, model.id, false, model.id === chosen)));
}

// Server-sent events of a streamed answer, as objects.
async function* events(body) {
  const decoder = new TextDecoder();
  const reader = body.getReader();
  let buffer = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      buffer += done ? decoder.decode() : decoder.decode(value, { stream: true });
      let end;
      while ((end = buffer.search(/\r?\n\r?\n/)) >= 0) {
        const frame = buffer.slice(0, end);
        buffer = buffer.slice(end).replace(/^\r?\n\r?\n/, "");
        const data = frame.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
        if (data === "[DONE]") return;
        if (data) yield JSON.parse(data);
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function request() {
  const body = { model: $("model").value || undefined, stream: true, stream_options: { include_usage: true } };
  for (const name of OPTIONS) {
    const field = $(name);
    if (field.value !== "" && field.checkValidity()) body[name] = Number(field.value);
  }
  const system = $("system").value.trim();
  const history = state.messages.filter((m) => m.role === "user" || m.content).map(({ role, content }) => ({ role, content }));
  body.messages = [...(system ? [{ role: "system", content: system }] : []), ...history];
  return body;
}

// ------------------------------------------------------------------ the conversation on the page

function make(tag, name, ...children) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  node.append(...children);
  return node;
}

function button(text, action) {
  const node = make("button", "", text);
  node.type = "button";
  node.addEventListener("click", action);
  return node;
}

function atEnd() {
  const chat = $("chat");
  return chat.scrollHeight - chat.scrollTop - chat.clientHeight < 60;
}

function toEnd() {
  $("chat").scrollTop = $("chat").scrollHeight;
}

function drawAnswer(message, node, writing) {
  const parts = [];
  if (message.thinking) {
    const box = make("details", "thinking", make("summary", "", writing && !message.content ? "Thinking…" : "Thoughts"), make("div", "", message.thinking));
    const before = node.querySelector("details.thinking");
    box.open = before ? before.open : false;
    parts.push(box);
  }
  const text = make("div", writing && !message.content ? "text waiting" : "text");
  text.append(...markdown(message.content));
  parts.push(text);
  if (message.error) parts.push(make("div", "failed", message.error));
  if (!writing) parts.push(foot(message));
  node.replaceChildren(...parts);
}

function foot(message) {
  const line = make("div", "foot");
  const { usage, seconds, first, cut } = message.stats ?? {};
  if (usage) {
    const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
    line.append(make("span", "", `${usage.completion_tokens} tokens`));
    if (seconds > first) {
      line.append(make("span", "", `${((usage.completion_tokens - 1) / (seconds - first)).toFixed(1)} tokens/s`));
    }
    line.append(make("span", "", `first after ${first.toFixed(2)} s`));
    line.append(make("span", "", `prompt ${usage.prompt_tokens}${cached ? `, ${cached} reused` : ""}`));
  }
  if (cut) line.append(make("span", "", cut));
  if (message.content) line.append(button("Copy", () => navigator.clipboard?.writeText(message.content)));
  if (message === state.messages.at(-1)) line.append(button("Again", again));
  return line;
}

function drawAll() {
  const chat = $("chat");
  chat.replaceChildren();
  if (!state.messages.length) {
    chat.append(make("div", "empty", make("strong", "", "What shall we talk about?"), "The model runs on this server; nothing leaves it."));
  }
  for (const message of state.messages) {
    if (message.role === "user") {
      chat.append(make("div", "user", make("div", "bubble", message.content)));
    } else {
      const node = make("div", "answer");
      drawAnswer(message, node, false);
      chat.append(node);
    }
  }
  toEnd();
}

// ------------------------------------------------------------------ an answer

async function answer() {
  const body = request();
  const message = { role: "assistant", content: "", thinking: "", error: "", stats: null };
  state.messages.push(message);
  drawAll();
  const node = $("chat").lastElementChild;
  drawAnswer(message, node, true);
  toEnd();
  const control = new AbortController();
  state.running = control;
  composing();
  const start = performance.now();
  let first = 0;
  let usage = null;
  let reason = null;
  let timer = 0;
  const draw = () => {
    timer = 0;
    const follow = atEnd();
    drawAnswer(message, node, true);
    if (follow) toEnd();
  };
  try {
    const reply = await fetch("/v1/chat/completions", {
      method: "POST", headers: headers(), body: JSON.stringify(body), signal: control.signal,
    });
    if (!reply.ok) throw new Error(await problem(reply));
    for await (const event of events(reply.body)) {
      if (event.error) throw new Error(event.error.message ?? "The answer failed.");
      usage = event.usage ?? usage;
      const choice = event.choices?.[0];
      if (!choice) continue;
      reason = choice.finish_reason ?? reason;
      const text = choice.delta?.content ?? "";
      const thought = choice.delta?.reasoning_content ?? choice.delta?.reasoning ?? "";
      if (!first && (text || thought)) first = (performance.now() - start) / 1000;
      message.content += text;
      message.thinking += thought;
      timer ||= setTimeout(draw, FRAME_MS);
    }
  } catch (error) {
    if (error.name !== "AbortError") message.error = error.message || "The connection was lost.";
  } finally {
    clearTimeout(timer);
    const cut = control.signal.aborted ? "stopped" : reason === "length" ? "cut at the longest answer or the end of the context" : "";
    message.stats = { usage, seconds: (performance.now() - start) / 1000, first, cut };
    state.running = null;
    const follow = atEnd();
    drawAnswer(message, node, false);
    if (follow) toEnd();
    saveMessages();
    composing();
  }
}

function again() {
  if (state.running || state.messages.at(-1)?.role !== "assistant") return;
  state.messages.pop();
  answer();
}

function composing() {
  const send = $("send");
  send.textContent = state.running ? "Stop" : "Send";
  send.classList.toggle("stop", Boolean(state.running));
}

function submit() {
  if (state.running) {
    state.running.abort();
    return;
  }
  const text = $("input").value.trim();
  if (!text) return;
  $("input").value = "";
  grow();
  state.messages.push({ role: "user", content: text });
  answer();
}

function grow() {
  const input = $("input");
  input.style.height = "auto";
  input.style.height = `${Math.min(input.scrollHeight + 2, window.innerHeight * 0.4)}px`;
}

// ------------------------------------------------------------------ the live view

const live = { last: null, speeds: [], timer: 0 };

function bytes(count) {
  if (count == null) return "–";
  const unit = count >= 1e9 ? [1e9, "GB"] : count >= 1e6 ? [1e6, "MB"] : [1e3, "kB"];
  return `${(count / unit[0]).toFixed(count >= 1e9 ? 2 : 0)} ${unit[1]}`;
}

function sum(engines, name) {
  return engines.reduce((total, engine) => total + (engine[name] ?? 0), 0);
}

function showLive(status) {
  const engines = status.engines ?? [];
  const now = performance.now() / 1000;
  const tokens = sum(engines.map((engine) => engine.counters ?? {}), "generation_tokens");
  if (live.last && tokens >= live.last.tokens) {
    live.speeds.push((tokens - live.last.tokens) / (now - live.last.now));
    if (live.speeds.length > 60) live.speeds.shift();
  }
  live.last = { tokens, now };
  const speed = live.speeds.at(-1) ?? 0;
  const top = Math.max(...live.speeds, 1);
  const points = live.speeds.map((value, i) => `${i * 2},${34 - (value / top) * 31}`).join(" ");
  document.querySelector("#live-graph polyline").setAttribute("points", points);
  const totals = status.totals ?? {};
  const reused = totals.prompt_tokens ? totals.cached_tokens / totals.prompt_tokens : 0;
  const budget = sum(engines, "budget_bytes");
  const states = sum(engines, "state_bytes");
  $("live-batch").textContent = `${status.running} of ${status.max_batch_size}`;
  $("live-batch-meter").value = status.running / Math.max(status.max_batch_size, 1);
  $("live-waiting").textContent = status.waiting;
  $("live-speed").textContent = speed.toFixed(1);
  $("live-reused").textContent = `${Math.round(reused * 100)} %`;
  $("live-reused-meter").value = reused;
  $("live-cache").textContent = `${bytes(sum(engines, "cached_bytes"))}, ${sum(engines, "cached_blocks")} blocks`;
  $("live-states").textContent = budget ? `${bytes(states)} of ${bytes(budget)}` : bytes(states);
  $("live-states-meter").value = budget ? states / budget : 0;
  $("live-memory").textContent = bytes(status.memory?.active_bytes);
  $("live-disk").textContent = status.disk ? bytes(status.disk.bytes) : "off";
  $("live-models").replaceChildren(
    ...(status.models ?? []).map((model) => {
      const about = [model.loaded ? "in memory" : "not loaded", model.context_length ? `${model.context_length.toLocaleString("en")} tokens` : ""];
      return make("li", "", `${model.id} `, make("small", "", about.filter(Boolean).join(", ")));
    }),
  );
  const jobs = status.jobs ?? [];
  $("live-jobs").replaceChildren(...(jobs.length ? jobs : [null]).map((job) => make("li", "", ...describe(job))));
}

function describe(job) {
  if (!job) return [make("small", "", "none at the moment")];
  const facts = Object.entries(job).filter(([name, value]) => name !== "model" && name !== "id" && value != null && value !== "");
  return [`${job.model ?? ""} `, make("small", "", facts.map(([name, value]) => `${name.replace(/_/g, " ")} ${typeof value === "number" && !Number.isInteger(value) ? value.toFixed(1) : value}`).join(", "))];
}

async function pollLive() {
  clearTimeout(live.timer);
  if ($("live").hidden) return;
  if (!document.hidden) {
    try {
      const reply = await fetch("/status.json", { headers: headers() });
      if (reply.ok) showLive(await reply.json());
    } catch {
      $("live-batch").textContent = "no connection";
    }
  }
  live.timer = setTimeout(pollLive, 1000);
}

// ------------------------------------------------------------------ panels and start

function toggle(name, open) {
  $(name).hidden = !open;
  $(`${name}-toggle`).setAttribute("aria-expanded", String(open));
  const narrow = window.matchMedia("(max-width: 60rem)").matches;
  if (open && narrow) toggle(name === "live" ? "settings" : "live", false);
  if (!narrow) save(`panel.${name}`, open);
  if (name === "live") pollLive();
}

function start() {
  for (const name of FIELDS) {
    $(name).value = load(`field.${name}`, "");
    $(name).addEventListener("change", () => save(`field.${name}`, $(name).value));
  }
  $("key").value = sessionStorage.getItem("mlx-lm.key") ?? "";
  $("key").addEventListener("change", () => {
    sessionStorage.setItem("mlx-lm.key", $("key").value);
    models();
  });
  $("model").addEventListener("change", () => save("model", $("model").value));
  for (const name of ["settings", "live"]) {
    $(`${name}-toggle`).addEventListener("click", () => toggle(name, $(name).hidden));
    if (!window.matchMedia("(max-width: 60rem)").matches && load(`panel.${name}`, name === "live")) toggle(name, true);
  }
  $("new").addEventListener("click", () => {
    state.running?.abort();
    state.messages = [];
    saveMessages();
    drawAll();
    $("input").focus();
  });
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  $("input").addEventListener("input", grow);
  $("input").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      if (!state.running) submit();
    }
  });
  $("chat").addEventListener("click", (event) => {
    if (event.target.className !== "copy-code") return;
    navigator.clipboard?.writeText(event.target.closest(".code").querySelector("code").textContent);
    event.target.textContent = "Copied";
    setTimeout(() => (event.target.textContent = "Copy"), 1200);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && state.running) state.running.abort();
  });
  drawAll();
  composing();
  models();
}

async function models() {
  try {
    await listModels();
  } catch (error) {
    $("chat").append(make("div", "failed", error.message || "The server cannot be reached."));
    if (/key/i.test(error.message)) toggle("settings", true);
  }
}

start();
