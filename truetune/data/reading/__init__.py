"""What stands behind `readers`: files as streams of UTF-8, and the values, tables and texts in them."""
