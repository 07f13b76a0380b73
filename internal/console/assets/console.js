// What pages need besides htmx: times, copying, dialogs, charts, keys. No framework, no inline code, nothing from elsewhere.
(function () {
  "use strict";

  var $ = function (s, at) { return (at || document).querySelector(s); };
  var $$ = function (s, at) { return Array.prototype.slice.call((at || document).querySelectorAll(s)); };
  var announce = function (text) { var a = $("#announce"); if (a) a.textContent = text; };

  // Times: relative beside absolute, in the viewer's zone. The server writes UTC, which is what shows without this script.
  var units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  function distance(seconds) {
    var s = Math.abs(seconds);
    if (s < 1) return "now";
    for (var i = 0; i < units.length; i++) {
      if (s >= units[i][0]) {
        var n = Math.floor(s / units[i][0]), text = n + " " + units[i][1];
        if (i < 2) {
          var m = Math.floor((s % units[i][0]) / units[i + 1][0]);
          if (m > 0) text += " " + m + " " + units[i + 1][1];
        }
        return seconds < 0 ? "in " + text : text + " ago";
      }
    }
    return "now";
  }
  var full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  var viewer = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", timeZoneName: "short" });
  function times(at) {
    var now = Date.now() + skew;
    $$("time[datetime]", at).forEach(function (t) {
      var when = new Date(t.getAttribute("datetime"));
      if (isNaN(when)) return;
      var text = t.closest("[data-viewer]") ? viewer.format(when) : distance((now - when) / 1000);
      if (t.textContent !== text) t.textContent = text;
      var title = full.format(when) + "\n" + when.toISOString().replace("T", " ").replace(/\.\d+Z/, " UTC");
      if (t.title !== title) t.title = title;
    });
  }
  // The server's clock may have been moved, in development.
  var skew = 0;
  function readSkew() {
    var d = document.documentElement.dataset;
    if (d.now) { skew = new Date(d.now) - Date.now(); delete d.now; }
  }

  // Copying.
  function copy(text, button) {
    var done = function () {
      var label = $("span", button) || button, was = label.textContent;
      label.textContent = "Copied";
      announce("Copied");
      setTimeout(function () { label.textContent = was; }, 1400);
    };
    if (navigator.clipboard && window.isSecureContext) {
      navigator.clipboard.writeText(text).then(done, function () { fallback(text, done); });
    } else {
      fallback(text, done);
    }
  }
  function fallback(text, done) {
    var area = document.createElement("textarea");
    area.value = text;
    area.className = "hidden";
    (document.querySelector("dialog[open]") || document.body).appendChild(area);
    area.select();
    if (document.execCommand("copy")) done();
    area.remove();
  }

  // Charts.
  var charts = {};
  var lines = {
    traffic: [["accepted", "--accent"], ["delivered", "--good"], ["retried", "--amber"], ["failed", "--bad"]],
    backlog: [["waiting", "--accent"]],
    latency: [["p50", "--accent"], ["p95", "--amber"], ["p99", "--bad"]],
  };
  var names = { accepted: "accepted", delivered: "delivered", retried: "retried", failed: "failed", waiting: "backlog", p50: "median", p95: "95 %", p99: "99 %" };
  function colour(name) {
    // Tokens are light-dark(); a probe resolves them for the canvas.
    var probe = $("#probe");
    if (!probe) {
      probe = document.createElement("i");
      probe.id = "probe";
      probe.hidden = true;
      document.body.appendChild(probe);
    }
    probe.style.color = "var(" + name + ")";
    return getComputedStyle(probe).color;
  }
  function milliseconds(v) {
    if (v == null) return "–";
    return v < 1000 ? Math.round(v * 10) / 10 + " ms" : Math.round(v / 10) / 100 + " s";
  }
  function count(v) { return v == null ? "–" : String(v); }
  function draw(force) {
    var at = $("[data-points]");
    if (!at || !window.uPlot) return;
    var s = JSON.parse(at.dataset.points);
    $$("[data-chart]").forEach(function (host) {
      var kind = host.dataset.chart, data = [s.at].concat(lines[kind].map(function (l) { return s[l[0]]; }));
      if (charts[kind] && !force) { charts[kind].setData(data); return; }
      if (charts[kind]) charts[kind].destroy();
      var show = kind === "latency" ? milliseconds : count;
      var grid = { stroke: colour("--line"), width: 1 }, muted = colour("--muted");
      var font = "12px " + getComputedStyle(document.body).fontFamily;
      charts[kind] = new uPlot({
        width: host.clientWidth, height: host.clientHeight,
        legend: { show: false }, cursor: { y: false, points: { size: 7 }, drag: { setScale: false } },
        padding: [8, 12, 0, 0],
        scales: { x: { time: true }, y: { range: function (u, min, max) { return [0, Math.max(max || 0, kind === "latency" ? 10 : 4) * 1.08]; } } },
        series: [{}].concat(lines[kind].map(function (l) {
          var c = colour(l[1]);
          return { label: names[l[0]], stroke: c, width: 2, spanGaps: kind !== "traffic", points: { show: function (u, i) { return lonely(u.data[i]); }, size: 5, fill: c } };
        })),
        axes: [
          { stroke: muted, grid: grid, ticks: grid, font: font, space: 70, size: 34, values: stamps },
          { stroke: muted, grid: grid, ticks: { show: false }, font: font, size: 64, incrs: kind === "latency" ? undefined : whole, values: function (u, v) { return v.map(function (n) { return kind === "latency" ? milliseconds(n) : n % 1 ? "" : short(n); }); } },
        ],
        hooks: { setCursor: [function (u) { tip(host, u, show); }] },
      }, data, host);
    });
  }
  var whole = [];
  for (var e = 1; e < 1e9; e *= 10) whole.push(e, 2 * e, 5 * e);
  function lonely(values) {
    var n = 0;
    for (var i = 0; i < values.length; i++) if (values[i] != null) n++;
    return n < 3;
  }
  function short(n) { return n >= 1e6 ? n / 1e6 + " M" : n >= 1e4 ? n / 1e3 + " k" : String(n); }
  function stamps(u, splits) {
    var long = u.scales.x.max - u.scales.x.min > 90000;
    return splits.map(function (t) {
      var d = new Date(t * 1000);
      return long ? d.toLocaleDateString(undefined, { day: "numeric", month: "short" }) + (d.getHours() || d.getMinutes() ? "\n" + hm(d) : "") : hm(d);
    });
  }
  function hm(d) { return ("0" + d.getHours()).slice(-2) + ":" + ("0" + d.getMinutes()).slice(-2); }
  function tip(host, u, show) {
    var legend = $$(".legend li", host.closest("section")), i = u.cursor.idx;
    legend.forEach(function (li, n) {
      var b = $("b", li);
      if (i == null) { if (b) b.remove(); return; }
      if (!b) { b = document.createElement("b"); li.appendChild(b); }
      b.textContent = show(u.data[n + 1][i]);
    });
  }
  function resize() {
    Object.keys(charts).forEach(function (k) {
      var host = $("[data-chart=" + k + "]");
      if (host) charts[k].setSize({ width: host.clientWidth, height: host.clientHeight });
    });
  }

  // Theme.
  function toggleTheme() {
    var root = document.documentElement;
    var dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem("posthaste-theme", root.dataset.theme); } catch (e) { /* lasts for this page then */ }
    draw(true);
    announce(root.dataset.theme + " theme");
  }

  // Dialogs.
  function openDialog(button) {
    var d = document.getElementById(button.dataset.dialog);
    Object.keys(button.dataset).forEach(function (k) {
      if (k.indexOf("fill") !== 0) return;
      var input = $("[name=" + k.slice(4).toLowerCase() + "]", d);
      if (input) {
        input.value = button.dataset[k];
        input.readOnly = (k === "fillName" || k === "fillKey") && button.dataset[k] !== "";
      }
    });
    d.showModal();
  }
  function confirmSubmit(form, submitter) {
    var d = $("#confirm");
    $("#confirm-title").textContent = form.dataset.confirmTitle || "Are you sure?";
    $("#confirm-text").textContent = form.dataset.confirm;
    $("#confirm-yes").textContent = form.dataset.confirmYes || "Go on";
    d.returnValue = "no";
    d.onclose = function () {
      if (d.returnValue !== "yes") return;
      form.dataset.sure = "1";
      form.requestSubmit(submitter || undefined);
    };
    d.showModal();
  }

  // The publish form: which kind of destination.
  function kind() {
    var chosen = $("[data-kind]:checked");
    if (!chosen) return;
    var label = $("[data-kind-label]"), group = chosen.value === "group";
    label.textContent = group ? "URL group" : "Destination URL";
    $("[name=destination]").placeholder = group ? "name" : "https://example.com/webhook";
    $$("[data-only]").forEach(function (e) { e.hidden = e.dataset.only !== chosen.value; });
  }
  var language = "curl";
  function tabs() {
    $$("[data-tabs]").forEach(function (t) {
      $$("[data-tab]", t).forEach(function (r) { r.checked = r.value === language; });
      $$("[data-panel]", t).forEach(function (p) { p.hidden = p.dataset.panel !== language; });
    });
  }

  // The dead letter page: how many are chosen.
  function chosen() {
    var n = $$("[data-choose]:checked").length;
    $$("[data-scope]").forEach(function (s) { s.textContent = n ? n : "all"; });
    var label = $("[data-chosen]");
    if (label) {
      if (!label.dataset.all) label.dataset.all = label.textContent;
      label.textContent = n ? n + " chosen" : label.dataset.all;
    }
  }

  // Live updates: a word about the connection, and a pause.
  var paused = false;
  function live(on) {
    $$("[data-live]").forEach(function (l) {
      l.classList.toggle("on", on && !paused);
      $("span", l).textContent = paused ? "Paused" : on ? "Live" : "Reconnecting";
    });
  }

  // Keys.
  var go = { o: "", l: "logs", p: "publish", d: "dlq", s: "schedules", q: "queues", f: "flow", u: "groups", h: "hosts", k: "keys", t: "tokens", c: "dev" };
  var pending = false;
  function typing(e) { return e.target.closest("input, textarea, select, [contenteditable]"); }
  function move(step) {
    var rows = $$("[data-rows] tbody tr");
    if (!rows.length) return;
    var at = rows.findIndex(function (r) { return r.hasAttribute("data-selected"); });
    var next = rows[Math.min(Math.max(at + step, 0), rows.length - 1)];
    rows.forEach(function (r) { r.removeAttribute("data-selected"); });
    next.setAttribute("data-selected", "");
    var link = $("a.row-link", next);
    if (link) link.focus();
    next.scrollIntoView({ block: "nearest" });
  }
  document.addEventListener("keydown", function (e) {
    if (e.ctrlKey || e.metaKey || e.altKey || typing(e) || $("dialog[open]")) return;
    if (pending) {
      pending = false;
      if (e.key in go) { e.preventDefault(); location.href = "/console/" + go[e.key]; }
      return;
    }
    switch (e.key) {
      case "/": var s = $("#search"); if (s) { e.preventDefault(); s.focus(); s.select(); } break;
      case "g": pending = true; setTimeout(function () { pending = false; }, 1200); break;
      case "j": move(1); break;
      case "k": move(-1); break;
      case "?": var d = $("#shortcuts"); if (d) d.showModal(); break;
    }
  });

  document.addEventListener("click", function (e) {
    var b = e.target.closest("button, a");
    if (!b) return;
    if (b.hasAttribute("data-copy")) copy($("pre", b.parentNode).textContent, b);
    else if (b.dataset.copyText !== undefined) copy(b.dataset.copyText, b);
    else if (b.hasAttribute("data-theme-toggle")) toggleTheme();
    else if (b.dataset.dialog) openDialog(b);
    else if (b.hasAttribute("data-close")) b.closest("dialog").close();
    else if (b.hasAttribute("data-menu")) b.setAttribute("aria-expanded", String($("#side").classList.toggle("open")));
    else if (b.hasAttribute("data-bulk")) $("#bulk").showModal();
    else if (b.hasAttribute("data-reveal")) {
      var c = $("code", b.parentNode), shown = b.textContent === "Hide";
      var hide = c.dataset.hidden || c.textContent;
      c.dataset.hidden = hide;
      c.textContent = shown ? hide : c.dataset.secret;
      b.textContent = shown ? "Show" : "Hide";
    } else if (b.hasAttribute("data-pause")) {
      paused = !paused;
      b.setAttribute("aria-pressed", String(paused));
      b.textContent = paused ? "Go on" : "Pause";
      live(true);
    } else if (b.getAttribute("href") === "#") e.preventDefault();
  });
  document.addEventListener("submit", function (e) {
    var f = e.target;
    if (f.dataset.confirm && !f.dataset.sure) {
      e.preventDefault();
      e.stopPropagation();
      confirmSubmit(f, e.submitter);
      return;
    }
    delete f.dataset.sure;
    if (f.hasAttribute("data-filter")) $$("input, select", f).forEach(function (i) { i.disabled = i.value === ""; });
  }, true);
  document.addEventListener("change", function (e) {
    if (e.target.hasAttribute("data-kind")) kind();
    if (e.target.hasAttribute("data-tab")) { language = e.target.value; tabs(); e.stopPropagation(); }
    if (e.target.hasAttribute("data-choose")) chosen();
  });
  window.addEventListener("pageshow", function () { $$("[data-filter] :disabled").forEach(function (i) { i.disabled = false; }); });

  document.addEventListener("htmx:sseOpen", function () { live(true); });
  document.addEventListener("htmx:sseError", function () { live(false); });
  document.addEventListener("htmx:sseBeforeMessage", function (e) { if (paused) e.preventDefault(); });
  document.addEventListener("htmx:afterSwap", function (e) {
    times(e.target);
    if (e.target.hidden) draw(false);
    tabs();
    chosen();
  });
  readSkew();
  times();
  setInterval(function () { times(); }, 1000);
  draw(false);
  kind();
  window.addEventListener("resize", resize);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", function () { draw(true); });
})();
