/** The entry of the page: shows the view that the address names. */

import { readRoute } from "./route.js";
import { Bar, Connection } from "./start/bar.js";
import { useDrop } from "./start/drop.js";
import { KeyDialog, KeyPage } from "./start/key.js";
import { Refused } from "./start/refused.js";
import { refusal, resume, SENDING_ADDRESS, sending } from "./start/sending.js";
import { session, startSession } from "./start/service.js";
import { Start } from "./start/start.js";
import { useStore } from "./start/store.js";
import { Work } from "./start/work.js";
import { html, render, useEffect, useState } from "./vendor/preact-htm.js";

function App() {
  const who = useStore(session);
  const [wasIn, setWasIn] = useState(false);
  useEffect(() => {
    if (who) setWasIn(true);
  }, [who]);
  if (wasIn) return html`<${Views} /> ${who === null && html`<${KeyDialog} />`}`;
  return html`<${Bar} title=${null} /><${Connection} />${who === null ? html`<${KeyPage} />` : html`<main></main>`}`;
}

function Views() {
  const route = useRoute();
  const isOver = useDrop();
  const now = useStore(sending);
  const [name, setName] = useState("");
  const shown = location.hash === SENDING_ADDRESS ? now : null;
  const isWork = Boolean(route.job || shown);
  useEffect(() => {
    resume();
  }, []);
  const title = isWork ? name : null;
  useEffect(() => {
    document.title = title ? `${title} · Rollout` : "Rollout: what the model looked at";
  }, [title]);
  return html`<${Bar} title=${title} /><${Connection} />
    ${isWork
      ? html`<${Work} key="work" id=${route.job} sending=${shown} query=${route.query} onTitle=${setName} /><${Refused} />`
      : html`<${Start} key="start" isOver=${isOver} />`}`;
}

/**
 * The view of a result writes to the address what it shows, without a hashchange: it stays the same view.
 *
 * @returns {import("./route.js").Route} as the address was when someone went to it.
 */
function useRoute() {
  const [route, setRoute] = useState(readRoute);
  useEffect(() => {
    const follow = () => {
      refusal.set(null);
      setRoute(readRoute());
    };
    addEventListener("hashchange", follow);
    // The address may have changed between the first drawing and this effect.
    setRoute(readRoute());
    return () => removeEventListener("hashchange", follow);
  }, []);
  return route;
}

startSession();
render(html`<${App} />`, /** @type {Element} */ (document.getElementById("app")));
