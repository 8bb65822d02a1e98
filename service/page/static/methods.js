/** The methods in words, by their names in the API. */

/** @typedef {import("./types.d.ts").Method} Method */

/** @type {Record<Method, { name: string, line: string }>} */
export const METHODS = {
  rollout: { name: "Attention rollout", line: "Follows the attention through all layers." },
  attention: { name: "Raw attention", line: "Shows the attention of the last layer alone." },
  gradient_rollout: { name: "Gradient rollout", line: "Shows the evidence for one class." },
  contribution_rollout: { name: "Contribution rollout", line: "Follows how much each patch passes on." },
  difference: { name: "Difference", line: "Shows what the motion did for one class." },
};

/** With what `difference` compares the clip, in words. @type {Record<import("./types.d.ts").Reference, string>} */
export const REFERENCES = { still: "the clip held still", blur: "the clip blurred", mean: "one colour" };

/** What contribution_rollout is called where it explains a class. */
export const CLASS_CONTRIBUTIONS = "Class contributions";

export const METHOD_NAMES = /** @type {Method[]} */ (Object.keys(METHODS));
