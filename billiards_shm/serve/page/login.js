// After a wrong token the address names a part of the page. Browsers move the focus there once the page is complete.
const focus = () => document.getElementById("token").focus();
focus();
addEventListener("load", () => setTimeout(focus));
