"""report.html and comparison.html: the content as one page each that opens anywhere."""
