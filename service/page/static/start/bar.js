/** The bar at the top: where one is, and what can be done from everywhere. */

import { logOut } from "../api/session.js";
import { Icon } from "../icons.js";
import { html } from "../vendor/preact-htm.js";
import { leaveSending } from "./sending.js";
import { insist, reachable, session } from "./service.js";
import { useStore } from "./store.js";

/** @param {{ title: string | null }} properties That of a job, which may be empty; null in the first view. */
export function Bar({ title }) {
  const isKeyed = Boolean(useStore(session)?.keys_required);
  return html`<header class=${title === null ? "bar" : "bar titled"}>
    <a class="brand" href="#"><img src="page/icon.svg" alt="" /><span>Rollout</span></a>
    ${title ? html`<h1 class="fill clip title" title=${title}><bdi>${title}</bdi></h1>` : html`<span class="fill"></span>`}
    <nav class="actions" aria-label="Page">
      ${title !== null && html`<${Action} href="#" icon="plus" words="New video" />`}
      <${Action} href="docs" icon="code" words="API" />
      ${isKeyed && html`<button class="button quiet" onClick=${leave}><${Icon} name="leave" /><span>Log out</span></button>`}
    </nav>
  </header>`;
}

/** What everybody sees when the service does not answer. */
export function Connection() {
  const isUp = useStore(reachable);
  return html`<div class="connection" role="status">
    ${!isUp && html`<p><span class="turning"></span>The service does not answer. Trying again…</p>`}
  </div>`;
}

/** @param {{ href: string, icon: string, words: string }} properties */
function Action({ href, icon, words }) {
  return html`<a class="button quiet" href=${href}><${Icon} name=${icon} /><span>${words}</span></a>`;
}

async function leave() {
  leaveSending();
  await insist(logOut).catch(() => null);
  // A new document: nothing of this person stays in the memory of the page.
  history.replaceState(null, "", location.pathname + location.search);
  location.reload();
}
