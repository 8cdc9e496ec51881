"""The report of many runs: found and read (runs, summaries, logs, extras), aggregated over seeds (protocol, groups),
put beside the paper's figures (published), written as tables (tables, markdown_latex, csv_files) and as a page (page,
charts, and files in HTML, CSS and JavaScript).
"""
