"""Pictures: heat maps, the overlay video, the contact sheet, and plots."""
