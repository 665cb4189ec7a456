// Reads the data of the page, and shows one plan, or two beside each other.

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

/** The scales that all plans of a page share, so that they can be compared by eye. */
function sharedBy(plans, kindColours) {
  let curveTop = 1;
  let addressTop = 1;
  for (const plan of plans) {
    curveTop = Math.max(curveTop, plan.peak, plan.bound);
    for (let b = 0; b < plan.inStep; b++) {
      addressTop = Math.max(addressTop, plan.height(b) + plan.buffers.size[b]);
    }
  }
  return { kindColours, curveTop, addressTop };
}

/** Shows the graphs of one step: the largest first, the others by choice. */
function showStep(host, graphs, kindColours, shared) {
  const place = el("div");
  let act = null;
  function show(i) {
    place.replaceChildren();
    act = makeExplorer(place, graphs[i], shared ?? sharedBy([graphs[i]], kindColours));
  }
  if (graphs.length > 1) {
    const choice = el(
      "select",
      { onchange: (event) => show(event.target.selectedIndex) },
      graphs.map((plan) => el("option", {}, plan.name)),
    );
    host.append(el("label", { className: "graph" }, "graph ", choice));
  }
  host.append(place);
  show(0);
  return (changes) => act(changes);
}

function themeButton(page, acts) {
  const order = ["auto", "light", "dark"];
  const made = button("theme: auto", () => {
    const next = order[(order.indexOf(page.dataset.theme ?? "auto") + 1) % order.length];
    page.dataset.theme = next;
    made.textContent = `theme: ${next}`;
    acts.forEach((act) => act({ theme: {} }));
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
    acts.forEach((act) => act({ theme: {} })),
  );
  return made;
}

async function start(page) {
  const data = await unpack(page.querySelector("script[type='text/plain']").textContent);
  const app = page.querySelector(".app");
  const steps = data.steps.map((step) => step.map((columns) => new Plan(columns, data.kinds)));
  const acts = [];
  app.hidden = false;
  page.classList.add("ready");
  const heading = page.querySelector("header");
  heading.append(themeButton(page, acts));
  if (steps.length === 2) {
    showComparison(app, data, steps, acts);
  } else {
    acts.push(showStep(app, steps[0], data.colours));
  }
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    event.preventDefault();
    page.querySelector(".search")?.focus();
  });
}

for (const page of document.querySelectorAll(".roam-plan")) start(page);
