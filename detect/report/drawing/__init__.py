"""What the report draws: charts, boxes on photos, colours."""
