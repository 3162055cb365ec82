const time = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });
const short = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const dayOfYear = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const dayWithYear = new Intl.DateTimeFormat(undefined, { dateStyle: "full" });
const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "auto" });

/** The local midnight before a time, both in ms. */
export function dayOf(at) {
  return new Date(at).setHours(0, 0, 0, 0);
}

/** 23:43, in the way of the reader's locale. */
export function timeText(at) {
  return time.format(at);
}

export function fullTimeText(at) {
  return full.format(at);
}

/** Nov 25, 2026, 23:43 */
export function shortTimeText(at) {
  return short.format(at);
}

/** The name of a day (as dayOf returns it): today, yesterday, or the date. */
export function dayText(day) {
  const today = dayOf(Date.now());
  const age = Math.round((today - day) / 86_400_000); // rounded: a day of a clock change has 23 or 25 hours
  if (age === 0 || age === 1) {
    const text = relative.format(-age, "day");
    return text.charAt(0).toLocaleUpperCase() + text.slice(1);
  }
  return (new Date(day).getFullYear() === new Date(today).getFullYear() ? dayOfYear : dayWithYear).format(day);
}
