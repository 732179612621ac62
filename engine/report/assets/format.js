// Numbers as text.

const WHOLE = new Intl.NumberFormat("en");
const SHORT = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

/** Return a whole number with its thousands apart. */
export function whole(number) {
  return WHOLE.format(number);
}

/** Return a number with one decimal, or none where it is large; a dash for what is no number. */
export function short(number) {
  if (!Number.isFinite(number)) return "–";
  return Math.abs(number) >= 100 ? WHOLE.format(Math.round(number)) : SHORT.format(number);
}

/** Return a share of 0 to 1 as per cent. */
export function percent(share) {
  return `${Math.round(share * 100)} %`;
}

/** Return seconds as a person would say them. */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 90) return `${short(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** Return "1 image" or "2 images". */
export function plural(n, noun) {
  return `${whole(n)} ${noun}${n === 1 ? "" : "s"}`;
}
