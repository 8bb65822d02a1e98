/** The icons of the page: outlines of 24 by 24, drawn in the colour of the text beside them. */

import { html } from "./vendor/preact-htm.js";

const PATHS = {
  check: "M5 12.5 10 17.5 19.5 7",
  chevron: "M6 9.5 12 15.5 18 9.5",
  code: "M8.5 7 3.5 12 8.5 17 M15.5 7 20.5 12 15.5 17",
  compare: "M4 5.5H10V18.5H4Z M14 5.5H20V18.5H14Z",
  copy: "M9 9V4.5H19.5V15H15 M4.5 9H15V19.5H4.5Z",
  crop: "M7 2.5V17H21.5 M2.5 7H17V21.5",
  cross: "M6 6 18 18 M18 6 6 18",
  download: "M12 4V15.5 M7 10.5 12 15.5 17 10.5 M4.5 19.5H19.5",
  film: "M4 5.5H20V18.5H4Z M8 5.5V18.5 M16 5.5V18.5 M4 12H20",
  grid: "M4 4H20V20H4Z M4 9.3H20 M4 14.7H20 M9.3 4V20 M14.7 4V20",
  heat: "M12 3C13 6.5 17.6 8.8 17.6 14A5.6 5.6 0 0 1 6.4 14C6.4 11.5 7.7 10 8.9 8.6 9.3 10.2 10 11 10.9 11.4 10.6 8.4 10.9 5.6 12 3Z",
  help: "M9 9A3 3 0 1 1 13.5 11.6C12.5 12.1 12 12.7 12 13.8 M12 17.4V17.5 M21 12A9 9 0 1 1 3 12A9 9 0 1 1 21 12Z",
  key: "M14.5 9.5 20 4 M17 7 19.5 9.5 M15 14.5A5 5 0 1 1 5 14.5A5 5 0 1 1 15 14.5Z",
  leave: "M10 4.5H5V19.5H10 M9.5 12H20 M16 8 20 12 16 16",
  line: "M4 8H20 M4 12H20 M4 16H14",
  link: "M10.2 13.8A3.8 3.8 0 0 0 15.7 13.8L19.2 10.3A3.8 3.8 0 0 0 13.7 4.8L12.5 6 M13.8 10.2A3.8 3.8 0 0 0 8.3 10.2L4.8 13.7A3.8 3.8 0 0 0 10.3 19.2L11.5 18",
  pause: "M7 5.5H9.5V18.5H7Z M14.5 5.5H17V18.5H14.5Z",
  picture: "M4 5.5H20V18.5H4Z M4 15.5 9 10.5 13 14.5 15.5 12 20 16.5 M15.5 9V9.1",
  play: "M8 5.5 18.5 12 8 18.5Z",
  plus: "M12 5V19 M5 12H19",
  retry: "M19 12A7 7 0 1 1 16.5 6.6 M17 3V7.2H12.8",
  trash: "M5 7H19 M9.5 7V4.5H14.5V7 M7 7 8 19.5H16L17 7",
  upload: "M12 16V5 M7.5 9.5 12 5 16.5 9.5 M4.5 16.5V19.5H19.5V16.5",
  warning: "M12 4.5 20.5 19.5H3.5Z M12 10.5V14 M12 16.6V16.7",
};

/** Those that are filled. @type {readonly string[]} */
const SOLID = ["pause", "play"];

/** @typedef {keyof typeof PATHS} IconName */

/**
 * @param {{ name: IconName }} properties
 * @returns a picture that screen readers skip: the control around it has the words.
 */
export function Icon({ name }) {
  return html`<svg class="icon" viewBox="0 0 24 24" width="20" height="20" aria-hidden="true" focusable="false">
    <path
      d=${PATHS[name]}
      fill=${SOLID.includes(name) ? "currentColor" : "none"}
      stroke="currentColor"
      stroke-width="1.75"
      stroke-linecap="round"
      stroke-linejoin="round"
    />
  </svg>`;
}
