'use strict';

// Tables are sorted by the column whose heading is pressed, again for the other way round.
for (const table of document.querySelectorAll('table.sortable')) {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  const key = (row, column) => {
    const cell = row.cells[column];
    return 'value' in cell.dataset ? Number(cell.dataset.value) : cell.textContent;
  };
  const compare = (a, b) => (typeof a === 'number' ? a - b : a.localeCompare(b, undefined, { numeric: true }));
  headings.forEach((heading, column) => {
    heading.querySelector('button').addEventListener('click', () => {
      const descending = heading.getAttribute('aria-sort') === 'ascending';
      headings.forEach((other) => other.removeAttribute('aria-sort'));
      heading.setAttribute('aria-sort', descending ? 'descending' : 'ascending');
      const rows = [...body.rows].sort((a, b) => compare(key(a, column), key(b, column)));
      body.append(...(descending ? rows.reverse() : rows));
    });
  });
}

// Videos play while they are seen, unless the reader wants no motion or has stopped them.
const videos = [...document.querySelectorAll('video')];
const pause = document.getElementById('pause');
if (pause) {
  let playing = !matchMedia('(prefers-reduced-motion: reduce)').matches;
  const seen = new Set();
  const update = () => {
    for (const video of videos) {
      if (playing && seen.has(video)) video.play().catch(() => {});
      else video.pause();
    }
    pause.textContent = playing ? 'Pause all' : 'Play all';
  };
  const observer = new IntersectionObserver((changes) => {
    for (const { target, isIntersecting } of changes) {
      if (isIntersecting) seen.add(target);
      else seen.delete(target);
    }
    update();
  });
  videos.forEach((video) => observer.observe(video));
  pause.addEventListener('click', () => {
    playing = !playing;
    update();
  });
  pause.hidden = false;
  update();
}
