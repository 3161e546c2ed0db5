"""Pure decisions: who is asked, in which order, and what an outcome means. Time and chance are arguments."""
