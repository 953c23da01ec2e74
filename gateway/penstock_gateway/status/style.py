"""How the status page looks: one sheet, light and dark, named in the page's policy by its hash."""

STYLE = """
:root{--paper:#f6f7f9;--card:#fff;--ink:#15202b;--soft:#5b6875;--line:#e3e7ec;--accent:#0b6bcb;
--good:#08773d;--good-bg:#e3f5ea;--warn:#8a5a00;--warn-bg:#fdf0d5;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--paper:#0e1318;--card:#161d24;--ink:#e6ebf0;--soft:#94a3b3;
--line:#26303a;--accent:#63b0ff;--good:#57d38c;--good-bg:#11301f;--warn:#f2c063;--warn-bg:#33270f;
--bad:#ff8a80}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:14px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif}
header,main,footer{max-width:84rem;margin:0 auto;padding:0 1.5rem}
header{display:flex;flex-wrap:wrap;align-items:baseline;justify-content:space-between;
gap:.25rem 2rem;padding-top:1.75rem}
h1{margin:0;font-size:1.5rem;letter-spacing:-.02em}
h1 span{font-weight:400;color:var(--soft)}
nav{color:var(--soft)}
nav a{margin-left:.35rem;padding:.1rem .5rem;border-radius:1rem;color:var(--accent);
text-decoration:none}
nav a[aria-current]{background:var(--accent);color:var(--card)}
nav a:hover,nav a:focus-visible{text-decoration:underline}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:.75rem;margin:1.25rem 0}
dl div,.scroll{background:var(--card);border:1px solid var(--line);border-radius:.6rem}
dl div{padding:.7rem 1rem}
dt{color:var(--soft)}
dd{margin:0;font-size:1.5rem;font-weight:600;font-variant-numeric:tabular-nums}
h2{margin:1.75rem 0 .5rem;font-size:1rem}
p{margin:0;color:var(--soft)}
.scroll{overflow-x:auto}
table{width:100%;border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.45rem .9rem;text-align:left;white-space:nowrap;border-bottom:1px solid var(--line)}
tr:last-child td{border-bottom:0}
th{font-weight:500;color:var(--soft)}
.n{text-align:right}
code{font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
small,.why{color:var(--soft)}
.why{display:block;min-width:22rem;white-space:normal}
.bad{color:var(--bad)}
.pill{padding:.1rem .6rem;border-radius:1rem;font-size:.85em;font-weight:600;
background:var(--warn-bg);color:var(--warn)}
.pill.ready{background:var(--good-bg);color:var(--good)}
meter{width:4.5rem;vertical-align:-.1em;margin-right:.35rem}
footer{padding-top:2rem;padding-bottom:2.5rem;color:var(--soft)}
"""
