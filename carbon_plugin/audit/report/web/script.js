// Draws the charts over time anew with uPlot, so that a reader can read off, zoom and hide, by pointer and by keyboard.
// Without this script the page shows drawings and tables that say the same.
(function () {
  "use strict";
  var root = document.documentElement;
  var number = new Intl.NumberFormat("en", { maximumSignificantDigits: 6 });
  var charts = [];

  function colour(name) {
    return getComputedStyle(root).getPropertyValue("--c-" + name).trim() || FALLBACK[name] || "#0072B2";
  }
  var FALLBACK = JSON.parse(document.getElementById("colours").textContent);

  function text(value, unit) {
    return value == null ? "–" : number.format(value) + (unit ? " " + unit : "");
  }

  // What a line is at one place, with the lowest and highest value that its mean stands for.
  function told(one, at, unit) {
    var range = one.lows && one.lows[at] != null ? " (" + number.format(one.lows[at]) + " to " + number.format(one.highs[at]) + ")" : "";
    return text(one.values[at], unit) + range;
  }

  // Heights of stacked series: each on top of those below it that are shown.
  function stacked(data, shown) {
    var below = data.x.map(function () { return 0; });
    return data.series.map(function (one, place) {
      if (one.kind !== "stack") { return one.values; }
      if (!shown[place]) { return one.values; }
      below = below.map(function (height, at) { return height + (one.values[at] || 0); });
      return below;
    });
  }

  function sourceOf(figure) {
    return figure && figure.dataset.source ? ["Source: " + figure.dataset.source] : [];
  }

  function draw(figure) {
    var data = JSON.parse(figure.querySelector(".data").textContent);
    var place = figure.querySelector(".live");
    var said = figure.querySelector(".said");
    // The tallest of a stack is drawn first, so that each one shows above those below it; lines come on top of it.
    function isStepped(one) { return one.kind === "stack" || one.kind === "step" || one.kind === "total"; }
    function isStacked(at) { return data.series[at].kind === "stack"; }
    var order = data.series.map(function (_, at) { return at; });
    order = order.filter(isStacked).reverse().concat(order.filter(function (at) { return !isStacked(at); }));
    var tops = data.series.map(function (one) { return Math.max.apply(null, one.highs || [0]); });
    var shown = data.series.map(function () { return true; });

    function columns() {
      var heights = stacked(data, shown);
      return [data.x].concat(order.map(function (at) { return heights[at]; }));
    }

    // A chart whose places along x have names (months) says these in place of numbers.
    function named(value) { return data.names ? data.names[value] || "" : number.format(value); }

    var series = order.map(function (at) {
      var one = data.series[at];
      var paint = function () { return colour(one.colour); };
      return {
        label: one.name,
        stroke: paint,
        fill: one.kind === "stack" ? paint : undefined,
        width: one.kind === "stack" ? 0.5 : one.kind === "total" ? 0.8 : 1.6,
        dash: one.kind === "dashed" ? [6, 3] : undefined,
        paths: isStepped(one) ? uPlot.paths.stepped({ align: 1 }) : undefined,
        points: { show: one.kind === "points", size: 6 },
        value: function (_, __, ___, index) { return index == null ? "–" : told(one, index, data.unit); }
      };
    });
    var ink = function () { return colour("dim"); };
    var grid = { stroke: function () { return colour("line"); }, width: 1 };
    var font = "12px system-ui, sans-serif";
    // Thin lines through the lowest and the highest value of each bin, so that no peak is lost in a mean.
    function envelope(plot) {
      var context = plot.ctx, box = plot.bbox;
      context.save();
      context.beginPath();
      context.rect(box.left, box.top, box.width, box.height);
      context.clip();
      order.forEach(function (at, position) {
        var one = data.series[at];
        if (!one.lows || !plot.series[position + 1].show) { return; }
        context.strokeStyle = colour(one.colour);
        context.globalAlpha = 0.65;
        context.lineWidth = devicePixelRatio;
        [one.lows, one.highs].forEach(function (edge) {
          var before = null;
          context.beginPath();
          edge.forEach(function (value, place) {
            if (value == null) { before = null; return; }
            var x = plot.valToPos(data.x[place], "x", true), y = plot.valToPos(value, "y", true);
            if (before === null) { context.moveTo(x, y); }
            else if (isStepped(one)) { context.lineTo(x, before); }
            context.lineTo(x, y);
            before = y;
          });
          context.stroke();
        });
      });
      context.restore();
    }

    var marks = { hooks: { draw: [envelope, function (plot) {
      var context = plot.ctx;
      context.save();
      var low = plot.bbox.top + plot.bbox.height, dot = devicePixelRatio;
      (data.attempts || []).forEach(function (one, at) {
        var from = Math.max(plot.bbox.left, plot.valToPos(one.from, "x", true));
        var to = Math.min(plot.bbox.left + plot.bbox.width, plot.valToPos(one.to, "x", true));
        context.fillStyle = colour(at % 2 ? "slate" : "checkpoint");
        if (to > from) { context.fillRect(from, low + dot, to - from, 5 * dot); }
      });
      context.fillStyle = colour("more");
      data.marks.forEach(function (mark) {
        var x = plot.valToPos(mark.x, "x", true);
        if (x >= plot.bbox.left && x <= plot.bbox.left + plot.bbox.width) {
          context.fillRect(x - dot, low - 4 * dot, 2 * dot, 12 * dot);
        }
      });
      context.restore();
    }] } };

    var plot = new uPlot({
      width: place.clientWidth || 320,
      height: 250,
      scales: { x: { time: false }, y: { range: function (_, low, high) { return [0, (Math.max.apply(null, [high || 0].concat(tops)) || 1) * 1.06]; } } },
      axes: [
        Object.assign({ stroke: ink, grid: grid, ticks: grid, font: font, label: data.axis, labelFont: font, labelSize: 20, size: 34 },
          data.names ? { values: function (_, at) { return at.map(named); } } : {}),
        { stroke: ink, grid: grid, ticks: grid, font: font, label: data.label + ", " + data.unit, labelFont: font, labelSize: 20, size: 54 }
      ],
      series: [{ label: data.axis, value: function (_, value) { return value == null ? "–" : named(value); } }].concat(series),
      bands: band(),
      cursor: { y: false, focus: { prox: 24 } },
      plugins: [marks],
      hooks: { setCursor: [tell] }
    }, columns(), place);

    // The range between two edges of a prediction is filled.
    function band() {
      var low = data.series.findIndex(function (one) { return one.kind === "low"; });
      var high = data.series.findIndex(function (one) { return one.kind === "high"; });
      if (low < 0 || high < 0) { return []; }
      return [{ series: [order.indexOf(high) + 1, order.indexOf(low) + 1], fill: function () { return colour("band") + "40"; } }];
    }

    function tell() {
      var at = plot.cursor.idx;
      place.classList.toggle("idle", at == null);
      if (at == null) { said.textContent = ""; return; }
      var reach = (plot.scales.x.max - plot.scales.x.min) / 60;
      var near = data.marks.filter(function (mark) { return Math.abs(mark.x - data.x[at]) <= reach; });
      said.textContent = near.map(function (mark) { return mark.text; }).concat(sourceOf(figure)).join(" · ");
    }

    function restack() {
      order.forEach(function (at, position) { shown[at] = plot.series[position + 1].show; });
      plot.setData(columns(), false);
      plot.redraw();
    }

    Array.prototype.forEach.call(place.querySelectorAll(".u-legend .u-series"), function (row, position) {
      if (!position) { return; }
      var head = row.querySelector("th");
      head.setAttribute("tabindex", "0");
      head.setAttribute("role", "button");
      head.setAttribute("aria-pressed", "true");
      function pressed() { head.setAttribute("aria-pressed", String(plot.series[position].show)); restack(); }
      head.addEventListener("click", function () { setTimeout(pressed); });
      head.addEventListener("keydown", function (event) {
        if (event.key !== "Enter" && event.key !== " ") { return; }
        event.preventDefault();
        event.stopPropagation();
        plot.setSeries(position, { show: !plot.series[position].show });
        pressed();
      });
    });

    var over = plot.root.querySelector(".u-over");
    over.setAttribute("tabindex", "0");
    over.setAttribute("role", "group");
    over.setAttribute("aria-label", figure.querySelector("h3").textContent + ": arrow keys read it point by point, Escape shows all of it");
    over.addEventListener("keydown", function (event) {
      var last = data.x.length - 1, at = plot.cursor.idx == null ? -1 : plot.cursor.idx;
      if (event.key === "ArrowRight") { at = Math.min(last, at + 1); }
      else if (event.key === "ArrowLeft") { at = Math.max(0, at - 1); }
      else if (event.key === "Home") { at = 0; }
      else if (event.key === "End") { at = last; }
      else if (event.key === "Escape") { plot.setScale("x", { min: data.x[0], max: data.x[last] }); return; }
      else { return; }
      event.preventDefault();
      plot.setCursor({ left: plot.valToPos(data.x[at], "x"), top: 10 });
      said.textContent = named(data.x[at]) + " " + data.axis + ": " + data.series.map(function (one) {
        return one.name + " " + told(one, at, data.unit);
      }).join(", ");
    });
    place.classList.add("idle");
    charts.push({ plot: plot, place: place });
  }

  function resize() {
    charts.forEach(function (one) {
      var width = one.place.clientWidth;
      if (width && width !== one.plot.width) { one.plot.setSize({ width: width, height: 250 }); }
    });
  }

  // Bars and dots tell their numbers at the pointer and at the focus.
  var tip = document.getElementById("tip");
  function show(event) {
    var mark = event.target.closest ? event.target.closest(".tip") : null;
    if (!mark) { tip.hidden = true; return; }
    tip.textContent = [mark.getAttribute("aria-label")].concat(sourceOf(mark.closest("figure"))).join("\n");
    tip.hidden = false;
    var box = mark.getBoundingClientRect();
    var left = Math.min(Math.max(8, box.left + box.width / 2 - tip.offsetWidth / 2), innerWidth - tip.offsetWidth - 8);
    tip.style.left = left + "px";
    tip.style.top = Math.max(8, box.top - tip.offsetHeight - 6) + "px";
  }

  root.classList.add("js");
  Array.prototype.forEach.call(document.querySelectorAll(".tip title"), function (title) { title.remove(); });
  document.addEventListener("pointerover", show);
  document.addEventListener("focusin", show);
  document.addEventListener("focusout", function () { tip.hidden = true; });
  document.addEventListener("scroll", function () { tip.hidden = true; }, { passive: true });
  Array.prototype.forEach.call(document.querySelectorAll("figure[data-live]"), draw);
  addEventListener("resize", resize);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", function () {
    charts.forEach(function (one) { one.plot.redraw(); });
  });
})();
