"""Reports: figures, tables and HTML pages of one run or several. Imports training and workdir."""
