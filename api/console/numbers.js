// Numbers as people write them: JavaScript rounds large ones without a word.

const JSON_STRING = /"(?:[^"\\]|\\.)*"/g;
const JSON_NUMBER = /-?\d[\d.eE+-]*/g;

/** Returns the number. @throws {Error} it is whole and may have been rounded */
export function exact(text) {
  const number = Number(text);
  if (/^[-\d.]+$/.test(text) && Number.isInteger(number) && !Number.isSafeInteger(number)) {
    throw new Error(`Whole numbers beyond ${Number.MAX_SAFE_INTEGER.toLocaleString("en")} cannot be sent exactly from here.`);
  }
  return number;
}

/** Returns the value of JSON. @throws {Error} it is none, or holds a number that is not exact */
export function exactJson(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new Error(`This is not JSON: ${error.message}`);
  }
  for (const number of text.replace(JSON_STRING, "").match(JSON_NUMBER) ?? []) exact(number);
  return value;
}
