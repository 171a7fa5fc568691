// The page of the pools. No framework, no build: elements are made by `h`, sections are functions that give elements, and
// text of agents and people only ever becomes text (never markup).

const $ = (id) => document.getElementById(id);
const PAGE = 100;

/** Makes an element. Attributes that begin with "on" are listeners; children are elements or text. */
function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// --- The API ---

const token = { get: () => sessionStorage.getItem("token"), set: (value) => sessionStorage.setItem("token", value), clear: () => sessionStorage.removeItem("token") };

class Problem extends Error {
  constructor(status, document) {
    super(document.detail || document.title || `status ${status}`);
    this.status = status;
  }
}

async function api(method, path, body, signal, extra = {}) {
  const headers = { authorization: `Bearer ${token.get()}`, ...extra };
  if (body !== undefined) headers["content-type"] = "application/json";
  const response = await fetch(`/api/v1${path}`, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  const text = await response.text();
  const value = text ? JSON.parse(text) : null;
  if (!response.ok) {
    if (response.status === 401) signOut("The token is unknown or has expired.");
    throw new Problem(response.status, value || {});
  }
  return value;
}

const at = (pool, rest = "") => `/pools/${encodeURIComponent(pool)}${rest}`;

// --- Notices and questions ---

let noticeTimer;
function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
  clearTimeout(noticeTimer);
  if (text) noticeTimer = setTimeout(() => ($("notice").hidden = true), 15000);
}

/** Does something that may fail, and says how. */
async function attempt(action) {
  try {
    notice("");
    await action();
  } catch (error) {
    if (error.name !== "AbortError") notice(error.message);
  }
}

function ask(text, yes) {
  const dialog = $("confirm");
  $("confirm-text").textContent = text;
  $("confirm-yes").textContent = yes;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}

const time = (ms) => (ms ? new Date(ms).toLocaleString() : "–");
const ago = (ms) => {
  const s = Math.max(0, Math.round((Date.now() - ms) / 1000));
  return s < 60 ? `${s} s ago` : s < 3600 ? `${Math.floor(s / 60)} min ago` : s < 86400 ? `${Math.floor(s / 3600)} h ago` : `${Math.floor(s / 86400)} d ago`;
};
const duration = (ms) => (ms < 60000 ? `${Math.round(ms / 1000)} s` : ms < 3600000 ? `${Math.round(ms / 60000)} min` : `${(ms / 3600000).toFixed(1)} h`);

// --- Sections ---

const sections = { overview, agents, jobs, releases, policy, audit };

/** What the address says: `#/pool/section`. */
function route() {
  const [pool, section] = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  return { pool, section: sections[section] ? section : "overview" };
}

let live = new AbortController();

/** Shows what the address says, and keeps it up to date. */
async function show() {
  live.abort();
  live = new AbortController();
  const { signal } = live;
  $("sign-out").hidden = !token.get();
  if (!token.get()) return signIn();
  const { pool, section } = route();
  $("sections").replaceChildren(
    ...(pool ? Object.keys(sections) : []).map((name) =>
      h("a", { href: `#/${encodeURIComponent(pool)}/${name}`, "aria-current": name === section ? "page" : null }, name[0].toUpperCase() + name.slice(1)),
    ),
  );
  document.title = pool ? `${pool}: ${section}` : "Agent pools";
  if (!pool) return attempt(() => pools(signal));
  let revision = -1;
  let update = null;
  for (let wait = 0; !signal.aborted; wait = 30) {
    try {
      const now = await api("GET", at(pool, `/changes?since=${revision}&wait=${wait}`), undefined, signal);
      if (now.revision !== revision) {
        revision = now.revision;
        update = update ? (await update(), update) : await sections[section](pool, signal);
      }
      $("live").textContent = "live";
      // Many changes in a row are one picture.
      await new Promise((resolve) => setTimeout(resolve, 300));
    } catch (error) {
      if (error.name === "AbortError" || signal.aborted) return;
      if (error.status === 401) return;
      $("live").textContent = "not up to date; trying again";
      if (error.status) notice(error.message);
      if (error.status === 404) return;
      await new Promise((resolve) => setTimeout(resolve, 2000));
    }
  }
}

function signIn(why = "") {
  const input = h("input", { type: "password", id: "token", autocomplete: "off", required: true, size: 40 });
  const form = h(
    "form",
    {
      onsubmit: (event) => {
        event.preventDefault();
        token.set(input.value.trim());
        show();
      },
    },
    h("h2", {}, "Sign in"),
    h("p", {}, why || "With a token. The first administrator's is in the file that the service named when it was started."),
    h("label", { for: "token" }, "Token"),
    input,
    " ",
    h("button", { class: "primary" }, "Sign in"),
  );
  $("content").replaceChildren(form);
  input.focus();
}

function signOut(why) {
  token.clear();
  live.abort();
  $("sections").replaceChildren();
  $("sign-out").hidden = true;
  $("live").textContent = "";
  signIn(why);
}

async function pools(signal) {
  const { items } = await api("GET", "/pools", undefined, signal);
  const name = h("input", { id: "new-pool", required: true, pattern: "[A-Za-z0-9._\\-]+" });
  $("content").replaceChildren(
    h("h2", {}, "Pools"),
    items.length ? h("ul", { class: "cards" }, items.map((pool) => h("li", {}, h("a", { href: `#/${encodeURIComponent(pool.name)}` }, pool.name)))) : h("p", { class: "soft" }, "There is none yet."),
    h(
      "form",
      {
        class: "tools",
        onsubmit: (event) => {
          event.preventDefault();
          attempt(async () => {
            await api("POST", "/pools", { name: name.value });
            location.hash = `#/${encodeURIComponent(name.value)}`;
          });
        },
      },
      h("label", {}, "New pool", h("br"), name),
      h("button", {}, "Make it"),
    ),
  );
}

/** A section that is drawn anew with every change, unless somebody is typing in it. */
async function redrawn(draw) {
  const render = async () => {
    const active = document.activeElement;
    if (active && $("content").contains(active) && active.matches("input, textarea, select")) return;
    const focus = active && $("content").contains(active) ? active.id : "";
    $("content").replaceChildren(...(await draw()));
    if (focus && $(focus)) $(focus).focus();
  };
  await render();
  return render;
}

// Overview: numbers, and the funnel as a picture.

function overview(pool, signal) {
  return redrawn(async () => {
    const s = await api("GET", at(pool), undefined, signal);
    const card = (n, what, kind = "") => h("li", {}, h("b", { class: kind }, String(n)), what);
    const bad = (s.states["update failed"] || 0) + (s.states["update overdue"] || 0);
    return [
      h("h2", {}, pool),
      h("p", { id: "policy-line" }, s.policy.mode === "noUpdate" ? `Jobs may not make agents update.${s.policy.reason ? ` ${s.policy.reason}` : ""}` : "Jobs may make agents update."),
      h(
        "ul",
        { class: "cards" },
        card(s.agents, "agents"),
        card(s.states.online || 0, "online"),
        card(s.states.updating || 0, "updating"),
        card(bad, "update failed or overdue", bad ? "bad" : ""),
        card(s.behind, `not on the newest release${s.newestRelease ? ` (${s.newestRelease})` : ""}`),
        card(s.jobs.queued || 0, "jobs waiting"),
        card((s.jobs.running || 0) + (s.jobs.assigned || 0), "jobs running"),
      ),
      h("h2", {}, "Agents per version, and the jobs that wait for one"),
      funnel(s.funnel),
      ...s.funnel.demanded.filter((d) => d.waiting > d.satisfying && d.satisfying * 2 < d.agents && d.idleBelow > 0).map((d) =>
        h("p", { class: "warning" }, `${d.waiting} jobs demand ${d.version}, which ${d.satisfying} of ${d.agents} agents satisfy, while ${d.idleBelow} others sit idle. Update some of these, or remove what demands ${d.version} from the jobs.`),
      ),
    ];
  });
}

function svg(name, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children.flat());
  return element;
}

function funnel({ agents, demanded }) {
  const versions = [...new Set([...agents.map((a) => a.version), ...demanded.map((d) => d.version)])].sort(compare);
  if (!versions.length) return h("p", { class: "soft" }, "No agents yet.");
  const most = Math.max(1, ...agents.map((a) => a.agents), ...demanded.map((d) => d.waiting));
  const row = 44;
  const width = (n) => (n / most) * 520;
  const rows = versions.map((version, i) => {
    const a = agents.find((x) => x.version === version) || { agents: 0, idle: 0 };
    const d = demanded.find((x) => x.version === version);
    const y = i * row;
    return [
      svg("text", { x: 0, y: y + 18 }, version),
      svg("rect", { class: "bar", x: 110, y: y + 5, width: width(a.agents), height: 16 }),
      svg("rect", { class: "idle", x: 110, y: y + 5, width: width(a.idle), height: 16 }),
      svg("text", { class: "soft", x: 116 + width(a.agents), y: y + 18 }, `${a.agents} agents, ${a.idle} idle`),
      ...(d
        ? [
            svg("rect", { class: "wait", x: 110, y: y + 23, width: Math.max(2, width(d.waiting)), height: 10 }),
            svg("text", { class: "soft", x: 118 + width(d.waiting), y: y + 33 }, `${d.waiting} jobs wait, the oldest for ${duration(d.longestWait)}; ${d.satisfying} agents satisfy them`),
          ]
        : []),
    ];
  });
  const words = versions.map((version) => {
    const a = agents.find((x) => x.version === version);
    const d = demanded.find((x) => x.version === version);
    return `${version}: ${a ? a.agents : 0} agents${d ? `, ${d.waiting} jobs wait` : ""}`;
  });
  return svg("svg", { class: "funnel", viewBox: `0 0 960 ${versions.length * row + 4}`, role: "img", "aria-label": words.join("; ") }, rows);
}

function compare(a, b) {
  const x = a.split(".").map(Number);
  const y = b.split(".").map(Number);
  for (let i = 0; i < Math.max(x.length, y.length); i++) {
    if ((x[i] || 0) !== (y[i] || 0)) return (x[i] || 0) - (y[i] || 0);
  }
  return 0;
}

// Agents: sorted and filtered by the controller, so that ten thousand are as quick as ten.

async function agents(pool, signal) {
  const wanted = { q: "", state: "", sort: "name", shown: PAGE };
  const body = h("tbody", { id: "agents" });
  const count = h("span", { class: "soft", role: "status" });
  const more = h("button", { onclick: () => attempt(() => ((wanted.shown += PAGE), load())) }, "Show more");
  const chosen = new Set();
  const updateChosen = h("button", { id: "update-chosen", disabled: true, onclick: () => attempt(() => update([...chosen])) }, "Update chosen");

  async function update(names) {
    const all = names === null;
    if (!(await ask(all ? "Ask all agents that are behind to update?" : `Ask ${names.join(", ")} to update?`, "Update"))) return;
    const answer = await api("POST", at(pool, "/agents/update"), all ? { all: true } : { agents: names });
    if (answer.refused.length) notice(answer.refused.map((r) => `${r.agent}: ${r.why}`).join("\n"));
    chosen.clear();
    await load();
  }

  const row = (agent) => {
    const box = h("input", {
      type: "checkbox",
      "aria-label": `Choose ${agent.name}`,
      onchange: () => {
        box.checked ? chosen.add(agent.name) : chosen.delete(agent.name);
        updateChosen.disabled = !chosen.size;
      },
    });
    box.checked = chosen.has(agent.name);
    const cell = (label, ...children) => h("td", { "data-label": label }, ...children);
    return h(
      "tr",
      { "data-agent": agent.name },
      cell("Choose", box),
      cell("Agent", agent.name),
      cell("Version", agent.version, " ", agent.behind ? h("span", { class: "mark info", title: "Not on the newest release. That is no fault in itself." }, "behind") : null),
      cell("State", agent.level === "warning" ? h("span", { class: "mark warning" }, agent.state) : agent.state, agent.detail ? h("div", { class: "soft" }, agent.detail) : null),
      cell("Job", agent.job ? `#${agent.job}` : "–"),
      cell("Heard of", h("span", { title: time(agent.lastSeen) }, ago(agent.lastSeen))),
      cell("", h("button", { id: `update-${agent.name}`, disabled: agent.state === "updating", onclick: () => attempt(() => update([agent.name])) }, "Update agent")),
    );
  };

  let turn = 0;
  async function load() {
    const mine = ++turn;
    const rows = [];
    let total = 0;
    for (let cursor = 0; cursor !== null && rows.length < wanted.shown; ) {
      const query = new URLSearchParams({ cursor, limit: Math.min(1000, wanted.shown - rows.length), sort: wanted.sort });
      if (wanted.q) query.set("q", wanted.q);
      if (wanted.state) query.set("state", wanted.state);
      const answer = await api("GET", at(pool, `/agents?${query}`), undefined, signal);
      rows.push(...answer.items);
      ({ total } = answer);
      cursor = answer.next === null ? null : Number(answer.next);
    }
    // A slower answer to an older question is of no interest any more.
    if (mine !== turn) return;
    const focus = document.activeElement && document.activeElement.id;
    body.replaceChildren(...rows.map(row));
    if (focus && focus.startsWith("update-") && $(focus)) $(focus).focus();
    count.textContent = `${rows.length} of ${total}`;
    more.hidden = rows.length >= total;
  }

  const header = (label, key) =>
    h(
      "th",
      { scope: "col", "aria-sort": "none", "data-key": key },
      key
        ? h(
            "button",
            {
              onclick: (event) => {
                wanted.sort = wanted.sort === key ? `-${key}` : key;
                for (const th of event.target.closest("tr").children) {
                  const mine = th.dataset.key && wanted.sort.replace("-", "") === th.dataset.key;
                  th.setAttribute("aria-sort", mine ? (wanted.sort.startsWith("-") ? "descending" : "ascending") : "none");
                }
                attempt(load);
              },
            },
            label,
          )
        : label,
    );
  let typing;
  $("content").replaceChildren(
    h("h2", {}, `Agents of ${pool}`),
    h(
      "div",
      { class: "tools" },
      h("label", {}, "Name has", h("br"), h("input", { id: "filter", type: "search", oninput: (event) => (clearTimeout(typing), (typing = setTimeout(() => ((wanted.q = event.target.value), (wanted.shown = PAGE), attempt(load)), 200))) })),
      h(
        "label",
        {},
        "State",
        h("br"),
        h("select", { id: "state", onchange: (event) => ((wanted.state = event.target.value), attempt(load)) }, ["", "online", "offline", "updating", "update failed", "update overdue"].map((state) => h("option", { value: state }, state || "any"))),
      ),
      updateChosen,
      h("button", { id: "update-all", onclick: () => attempt(() => update(null)) }, "Update all"),
      count,
    ),
    h("table", { class: "stack" }, h("thead", {}, h("tr", {}, header(""), header("Agent", "name"), header("Version", "version"), header("State", "state"), header("Job"), header("Heard of", "seen"), header(""))), body),
    more,
  );
  await load();
  return load;
}

// Jobs, with their errors in full.

async function jobs(pool, signal) {
  const list = h("tbody", { id: "jobs" });
  const row = (job) => {
    const cell = (label, ...children) => h("td", { "data-label": label }, ...children);
    const kind = job.state.state === "failed" ? "bad" : job.state.state === "succeeded" ? "good" : "";
    const open = ["queued", "assigned", "running"].includes(job.state.state);
    return h(
      "tr",
      { "data-job": job.id },
      cell("Job", `#${job.id}`),
      cell("Tasks", job.spec.tasks.map((task) => `${task.name} ${task.version}`).join(", "), job.spec.features?.length ? h("div", { class: "soft" }, `features: ${job.spec.features.join(", ")}`) : null, job.spec.demands?.length ? h("div", { class: "soft" }, `demands: ${job.spec.demands.join(", ")}`) : null),
      cell("State", h("span", { class: kind }, job.state.state), job.agentName ? ` by ${job.agentName}` : "", waiting(job), job.state.error ? h("pre", { class: "error" }, job.state.error) : null, job.state.result ? h("details", {}, h("summary", {}, "Result"), h("pre", {}, pretty(job.state.result))) : null),
      cell("Submitted", h("span", { title: time(job.submitted) }, ago(job.submitted)), ` by ${job.by}`),
      cell("", open ? h("button", { onclick: () => attempt(async () => (await ask(`Take job #${job.id} back?`, "Take back")) && (await api("POST", at(pool, `/jobs/${job.id}/cancel`)), await load())) }, "Take back") : null),
    );
  };
  const waiting = (job) => {
    const w = job.waiting;
    if (!w) return null;
    const words = { agent: () => `waits for one of ${w.satisfying} agents (${w.online} online)`, update: () => `waits for the update of agent ${w.agent}`, outdated: () => `waits for one of ${w.agents} agents that could update` };
    return h("div", { class: "soft" }, words[w.for]());
  };
  async function load() {
    const { items } = await api("GET", at(pool, `/jobs?limit=${PAGE}`), undefined, signal);
    list.replaceChildren(...items.map(row));
  }
  const { items: tasks } = await api("GET", at(pool, "/tasks"), undefined, signal);
  const { items: features } = await api("GET", at(pool, "/features"), undefined, signal);
  const task = h("select", { id: "job-task" }, tasks.map((t) => h("option", { value: `${t.name}@${t.version}` }, `${t.name} ${t.version}${t.minimumAgentVersion ? ` (needs ${t.minimumAgentVersion})` : ""}`)));
  const feature = h("select", { id: "job-feature" }, h("option", { value: "" }, "none"), features.map((f) => h("option", { value: f.name }, `${f.name} (needs ${f.minimumAgentVersion})`)));
  const demands = h("input", { id: "job-demands", placeholder: "gpu exists, os = debian", size: 30 });
  const input = h("textarea", { id: "job-input", rows: 2, placeholder: "input of the task: JSON, if it wants any" });
  const submit = (event) => {
    event.preventDefault();
    attempt(async () => {
      const [name, version] = task.value.split("@");
      const spec = { tasks: [{ name, version, ...(input.value.trim() ? { input: input.value.trim() } : {}) }] };
      if (feature.value) spec.features = [feature.value];
      if (demands.value.trim()) spec.demands = demands.value.split(",").map((demand) => demand.trim());
      const job = await api("POST", at(pool, "/jobs"), spec, undefined, { "idempotency-key": crypto.randomUUID ? crypto.randomUUID() : String(Math.random()) });
      if (job.state.state === "failed") notice(job.state.error);
      await load();
    });
  };
  $("content").replaceChildren(
    h("h2", {}, `Jobs of ${pool}`),
    h("form", { class: "tools", id: "submit-job", onsubmit: submit }, h("label", {}, "Task", h("br"), task), h("label", {}, "Feature", h("br"), feature), h("label", {}, "Demands", h("br"), demands), h("label", {}, "Input", h("br"), input), h("button", { class: "primary", id: "submit" }, "Submit")),
    h("table", { class: "stack" }, h("thead", {}, h("tr", {}, ["Job", "Tasks", "State", "Submitted", ""].map((label) => h("th", { scope: "col" }, label)))), list),
  );
  await load();
  return load;
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function releases(pool, signal) {
  return redrawn(async () => {
    const { items } = await api("GET", at(pool, "/releases"), undefined, signal);
    const cell = (label, ...children) => h("td", { "data-label": label }, ...children);
    return [
      h("h2", {}, `Releases of ${pool}`),
      h("p", { class: "soft" }, "What agents can update to. A new release changes no job's demands. They are published from the command line: azure-proxy-agent-pool release publish."),
      h(
        "table",
        { class: "stack" },
        h("thead", {}, h("tr", {}, ["Version", "File", "SHA-256", "Published", "Notes", ""].map((label) => h("th", { scope: "col" }, label)))),
        h(
          "tbody",
          {},
          items.toReversed().map((release) =>
            h(
              "tr",
              {},
              cell("Version", release.version),
              cell("File", `${release.file}, ${(release.size / 1e6).toFixed(2)} MB`),
              cell("SHA-256", h("code", { title: release.sha256 }, `${release.sha256.slice(0, 16)}…`)),
              cell("Published", time(release.published)),
              cell("Notes", release.notes),
              cell("", h("button", { onclick: () => attempt(async () => (await ask(`Withdraw release ${release.version}?`, "Withdraw")) && (await api("DELETE", at(pool, `/releases/${release.version}`)))) }, "Withdraw")),
            ),
          ),
        ),
      ),
    ];
  });
}

// Policy, with its reason and its history.

async function policy(pool, signal) {
  const summary = await api("GET", at(pool), undefined, signal);
  const reason = h("textarea", { id: "reason", rows: 3, "aria-describedby": "reason-count" }, summary.policy.reason || "");
  const count = h("span", { id: "reason-count", class: "soft" });
  const counted = () => {
    // Unicode scalar values, as the controller counts them.
    const n = [...reason.value].length;
    count.textContent = `${n} of 400 characters`;
    count.className = n > 400 ? "bad" : "soft";
  };
  reason.addEventListener("input", counted);
  counted();
  const option = (value, words) => h("label", { class: "inline" }, h("input", { type: "radio", name: "mode", id: `mode-${value}`, value, checked: summary.policy.mode === value }), ` ${words}`);
  const form = h(
    "form",
    {
      onsubmit: (event) => {
        event.preventDefault();
        attempt(async () => {
          const mode = new FormData(form).get("mode");
          const text = reason.value.trim();
          await api("PUT", at(pool, "/policy"), mode === "noUpdate" ? { mode, ...(text ? { reason: text } : {}) } : { mode });
          saved.textContent = "Saved.";
          await load();
        });
      },
    },
    h("fieldset", {}, h("legend", {}, "May jobs make agents update?"), option("normal", "Yes: where no agent has the version that a job demands, one is asked to update"), h("br"), option("noUpdate", "No: such a job fails, and its error says that this is the owner's setting")),
    h("label", { for: "reason" }, "Reason, shown with every job that fails for it (optional)"),
    reason,
    h("div", {}, count),
    h("button", { class: "primary", id: "save-policy" }, "Save"),
  );
  const saved = h("span", { role: "status", id: "saved" });
  const history = h("tbody", {});
  async function load() {
    const { items } = await api("GET", at(pool, "/audit?limit=200"), undefined, signal);
    history.replaceChildren(...items.filter((line) => line.action === "policy").map((line) => h("tr", {}, h("td", {}, time(line.at)), h("td", {}, line.actor), h("td", {}, line.detail))));
  }
  $("content").replaceChildren(h("h2", {}, `Policy of ${pool}`), form, saved, h("p", { class: "soft" }, "Updates that a person asks for go through either way."), h("h2", {}, "History"), h("table", {}, h("thead", {}, h("tr", {}, ["When", "Who", "What"].map((label) => h("th", { scope: "col" }, label)))), history));
  await load();
  return load;
}

function audit(pool, signal) {
  return redrawn(async () => {
    const { items } = await api("GET", at(pool, "/audit?limit=500"), undefined, signal);
    const row = (line) => h("tr", {}, h("td", {}, time(line.at)), h("td", {}, line.actor), h("td", {}, line.action), h("td", {}, line.detail));
    return [h("h2", {}, `What was done in ${pool}`), h("table", {}, h("thead", {}, h("tr", {}, ["When", "Who", "What", "How"].map((label) => h("th", { scope: "col" }, label)))), h("tbody", {}, items.map(row)))];
  });
}

$("sign-out").addEventListener("click", () => signOut("Signed out."));
addEventListener("hashchange", show);
show();
