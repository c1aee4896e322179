"""The page that `vjax.report` makes of a run: its figures, charts, clips and template."""
