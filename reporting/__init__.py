"""The report of many runs: found and read (runs, logs), aggregated over seeds (groups), put beside the paper's figures
(published), written as tables (tables) and as a page (page, charts; page.html, page.css, page.js, charts.js).

Shape legend: none.
"""
