"""A survey as one self-contained HTML page. Knows nothing but the survey. Imports no torch."""

from __future__ import annotations

from lastblock.data.survey import Survey

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ s.source }}: a look at the data</title>
<style>
:root { color-scheme: light dark; --line: #8884; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; display: block; overflow-x: auto; }
td, th { padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--line); text-align: left; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.bar { display: inline-block; height: .7rem; background: #4a7fb5; vertical-align: middle; }
li { margin-bottom: .7rem; } .error b { color: #c0392b; } .warning b { color: #b9770e; }
.more { opacity: .75; font-size: .9rem; overflow-wrap: anywhere; }
</style></head><body>
<h1>{{ s.source }}</h1>
<p>{{ "{:,}".format(s.rows) }} rows, {{ "{:,}".format(s.usable) }} with text and label,
{{ s.classes | length }} classes{% if s.separator %}, several a text{% endif %}.</p>
{% for note in s.notes %}<p class="more">{{ note }}</p>{% endfor %}
<h2>Found</h2>
<ul>{% for f in s.findings %}<li class="{{ f.level }}"><b>{{ f.level }}</b> {{ f.message }}
{% if f.rows %}<div class="more">rows {{ f.rows | join(", ") }}{% if f.count > f.rows | length %},
...{% endif %}</div>{% endif %}
{% for e in f.examples %}<div class="more">{{ e }}</div>{% endfor %}</li>
{% else %}<li>nothing that looks wrong</li>{% endfor %}</ul>
<h2>Classes</h2>
<table><tr><th>class</th><th class="n">rows</th><th class="n">share</th><th></th>
<th class="n">different texts</th><th class="n">but for case, digits, punctuation</th></tr>
{% for name, c in s.classes.items() %}<tr><td>{{ name }}</td>
<td class="n">{{ "{:,}".format(c.rows) }}</td><td class="n">{{ "{:.1%}".format(c.share) }}</td>
<td><span class="bar" style="width: {{ "{:.0f}".format(200 * c.share) }}px"></span></td>
<td class="n">{{ "{:,}".format(c.different) }}</td>
<td class="n">{{ "{:,}".format(c.different_normalised) }}</td></tr>{% endfor %}</table>
<h2>Lengths</h2>
<table>{% for unit, q in s.lengths.items() %}{% if loop.first %}<tr><th></th>
{% for name in q %}<th class="n">{{ name }}</th>{% endfor %}</tr>{% endif %}
<tr><td>{{ unit }}</td>
{% for v in q.values() %}<td class="n">{{ "{:,}".format(v) }}</td>{% endfor %}
</tr>{% endfor %}</table>
{% for title, shares in (("Scripts", s.scripts), ("Languages, roughly", s.languages)) %}
{% if shares %}<h2>{{ title }}</h2><p>{% for name, share in shares.items() %}{{ name }}
{{ "{:.1%}".format(share) }}{% if not loop.last %}, {% endif %}{% endfor %}</p>{% endif %}
{% endfor %}
</body></html>
"""


def render(survey: Survey) -> str:
    """The page's HTML; every text in it is escaped."""
    from jinja2 import Environment

    return Environment(autoescape=True).from_string(_PAGE).render(s=survey)
