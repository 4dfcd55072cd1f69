"""What studies and analyses share: run folders as records, groups of runs, tables, the style of pictures, pages of HTML."""
