// What the scripts of both pages use.
"use strict";

const numbers = new Intl.NumberFormat("en");
const by_id = (id) => document.getElementById(id);
const counted = (objects) => `${numbers.format(objects)} ${objects === 1 ? "object" : "objects"}`;

function made(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children); // text stays text, whatever is in it
  return element;
}
