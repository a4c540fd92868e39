"""One self-contained HTML page per report: tables that sort, curves, and galleries of images with boxes."""
