"""Models as folders: where they come from, what their files say, how much memory they want, how they tokenise."""
