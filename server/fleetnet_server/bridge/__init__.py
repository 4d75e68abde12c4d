"""What hands on readings, events and presence to other systems; imports no store and no web."""
