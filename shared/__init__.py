"""What api and worker both need: plain types, settings, the database, slots, events and messages."""
