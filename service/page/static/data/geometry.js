/** Where the patches lie in the picture. All lengths are source pixels, as displayed. */

/** @typedef {import("../types.d.ts").Rectangle} Rectangle */
/** @typedef {{ crop: Rectangle, rows: number, columns: number }} Grid an Exploration is one. */

/**
 * @param {Grid} grid
 * @param {number} x
 * @param {number} y
 * @returns {{ row: number, column: number } | null} the patch at a point; null outside what the model saw.
 */
export function patchAt({ crop, rows, columns }, x, y) {
  const right = (x - crop.x) / crop.width;
  const down = (y - crop.y) / crop.height;
  if (!(right >= 0 && right < 1 && down >= 0 && down < 1)) return null;
  return { row: Math.floor(down * rows), column: Math.floor(right * columns) };
}

/**
 * @param {Grid} grid
 * @param {number} row
 * @param {number} column
 * @returns {Rectangle} the place of a patch.
 */
export function patchRectangle({ crop, rows, columns }, row, column) {
  const width = crop.width / columns;
  const height = crop.height / rows;
  return { x: crop.x + column * width, y: crop.y + row * height, width, height };
}

/**
 * @param {Rectangle} rectangle
 * @param {{ width: number, height: number }} picture
 * @returns {Rectangle} in shares of the picture, 0 to 1.
 */
export function relativeTo({ x, y, width, height }, picture) {
  return {
    x: x / picture.width,
    y: y / picture.height,
    width: width / picture.width,
    height: height / picture.height,
  };
}
